"""Draws docs/figures from what benchmarks/method.py found of a run.

python benchmarks/method_plots.py benchmarks/results/method-*.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "streamrec-dist"  # the same drawing twice is the same file

from matplotlib import pyplot  # noqa: E402 (the backend is chosen first)
from matplotlib.axes import Axes  # noqa: E402

from streamrec_dist.types import REWARDS  # noqa: E402

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "figures"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for file in arguments.files:
        found = json.loads(file.read_text())
        for draw in (learning, thinking, rewards, scaling):
            figure = draw(found)
            figure.savefig(arguments.out / f"{found['run']}-{draw.__name__}.svg", metadata={"Date": None})
            pyplot.close(figure)


def learning(found: dict[str, Any]) -> Any:
    """Stage 1: both decoders' loss over the steps; validation NDCG@10 after each stage's parts."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for name, label in (
        ("thinking", "thinking: two neighbours, then the item"),
        ("direct", "direct: the item"),
    ):
        _curve(left, found["pretrain"][name], label)
    _label(left, "optimizer step", "-log P a token")
    for stage in ("pretrain", "sft", "rl"):
        points = found[stage]["ndcg@10"]
        # Parts of a stage side by side: steps of stages differ by magnitudes.
        last = max(len(points) - 1, 1)
        parts = [(place / last, value) for place, (_, value) in enumerate(points)]
        _curve(right, parts, stage, marker="o")
    _label(right, "evaluations, first to last of the stage", "validation NDCG@10")
    return figure


def thinking(found: dict[str, Any]) -> Any:
    """Stage 2: distance of states to targets by thinking step, and the leak by round."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    rounds = found["sft"]["rounds"]
    for entry in rounds:
        left.plot(
            range(len(entry["distance"])),
            entry["distance"],
            marker="o",
            label=f"annotated, round {entry['round']}",
        )
    own = found["distances"]["sft"]["own"]
    left.plot(
        range(len(own)), own, marker="o", linestyle=":", color="black", label="own thoughts, the weights kept"
    )
    _label(left, "thinking step i", "distance of s_i to the target")
    left.xaxis.get_major_locator().set_params(integer=True)
    for name, label in (("sampled_nll", "own thoughts"), ("gold_nll", "annotated thoughts")):
        right.plot(
            [entry["round"] for entry in rounds], [entry[name] for entry in rounds], marker="o", label=label
        )
    _label(right, "round", "-log P(target | thoughts)")
    right.xaxis.get_major_locator().set_params(integer=True)
    return figure


def rewards(found: dict[str, Any]) -> Any:
    """Stage 3: each reward's mean, its spread within groups and its share of the advantage."""
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3), layout="constrained")
    kinds = (("reward", "mean"), ("spread", "spread within groups"), ("share", "share of the advantage"))
    for axis, (kind, title) in zip(axes, kinds, strict=True):
        for name in REWARDS:
            _curve(axis, found["rl"][f"{kind}/{name}"], name.replace("_", " "))
        _label(axis, "optimizer step", title, legend=axis is axes[0])
    return figure


def scaling(found: dict[str, Any]) -> Any:
    """NDCG@10 against thinking steps, samples and beam, with milliseconds a user."""
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3), layout="constrained", sharey=True)
    for axis, (key, title) in zip(
        axes, (("steps", "thinking steps"), ("samples", "sampled thoughts"), ("beam", "beam")), strict=True
    ):
        entries = found["scaling"][key]
        axis.plot(list(entries), [entry["ndcg@10"] for entry in entries.values()], marker="o")
        for place, entry in entries.items():
            axis.annotate(
                f"{entry['ms']:.0f} ms", (place, entry["ndcg@10"]), fontsize=7, ha="center", va="bottom"
            )
        _label(axis, title, "NDCG@10", legend=False)
    axes[0].axhline(found["scaling"]["oracle"], linestyle=":", label="best depth of each user")
    if (alone := found["scaling"]["evidence"]) is not None:
        for axis in axes:
            axis.axhline(alone, linestyle="--", color="grey", label="the evidence alone")
    axes[0].legend(fontsize=7)
    return figure


def _curve(axis: Axes, points: Sequence[Sequence[float]], label: str, **style: str) -> None:
    axis.plot([x for x, _ in points], [y for _, y in points], label=label, **style)


def _label(axis: Axes, x: str, y: str, legend: bool = True) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.spines[["top", "right"]].set_visible(False)
    if legend:
        axis.legend(fontsize=7, frameon=False)


if __name__ == "__main__":
    main()
