"""The table of a data set: every baseline and every stage, from raw files, by the commands that a user types.

    python benchmarks/science.py --set Beauty --seeds 1 2 3
    python benchmarks/science.py --set Beauty --table        # prints what benchmarks/results/science.json has

It brings a cluster up as configs/SET.yaml says, trains one run a seed in runs/ (or goes on with it: every part is
resumed where it was left), evaluates on the test split, with the history allowed and masked, and adds the rows to
--out as they come. Baselines and the model without evidence are runs of their own, from the same ids. All is selected
on validation; the test split is only ever evaluated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from cluster_runs import ROOT, RUNS, add_row, cluster, command, is_known, known_rows, result
from measure import hardware

from cli.output import four, interval, signed
from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.rundir import STAGES, RunDir
from streamrec_dist.stages.evaluate import result_name

#: What begins with it is of a second run from the same ids, without evidence.
PLAIN = "plain-"
#: What the decoders of that run need beyond the configuration of the set: told nothing, they have more to learn, and
#: dropout keeps them from it.
PLAIN_SETTINGS = [
    "model.dropout=0",
    "stages.pretrain.lr=0.003",
    "stages.pretrain.epochs=10",
    "stages.pretrain.patience=10",
    "stages.sft.lr=0.001",
    "stages.sft.epochs=3",
    "stages.sft.rounds=4",
    "stages.rl.rows=all",
    "stages.rl.steps=120",
]
#: What is evaluated -> its name in the table, and the stage whose minutes it took.
MODELS = {
    "counting": ("counting (no training)", None),
    "gru4rec": ("GRU4Rec", "gru4rec"),
    "sasrec-bce": ("SASRec, BCE", "sasrec-bce"),
    "sasrec": ("SASRec, full softmax", "sasrec"),
    "tiger": ("TIGER, trained alone", "tiger"),
    "plain-direct": ("direct decoder (TIGER on the trie)", "pretrain"),
    "plain-pretrain": ("thinking without evidence, after pretrain", "pretrain"),
    "plain-sft": ("thinking without evidence, after SFT", "sft"),
    "plain-rl": ("thinking without evidence, after RL", "rl"),
    "retrieve": ("retriever (the evidence alone)", "retrieve"),
    "pretrain": ("after pretrain", "pretrain"),
    "sft": ("after SFT", "sft"),
    "rl": ("after RL", "rl"),
}
MEASURES = ("ndcg@10", "recall@10")
#: What there is one row of.
PLACE = ("set", "model", "seed", "masked", "split")


def main() -> None:
    arguments = _arguments()
    rows = known_rows(arguments.out)
    if not arguments.table:
        with cluster(f"{arguments.set.lower()}.yaml"):
            for row in measure(arguments, rows):
                place = [row[field] for field in PLACE]
                rows = [one for one in rows if [one[field] for field in PLACE] != place]
                add_row(arguments.out, rows, row)
    print("\n".join([*table(rows, arguments.set), *gains(rows, arguments.set)]))


def measure(arguments: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows that `known` lacks, as they are evaluated."""
    for seed in arguments.seeds:
        run = RunDir(RUNS / f"{arguments.set.lower()}-{seed}")
        plain = RunDir(run.path.with_name(f"{run.name}-plain"))
        baselines = RunDir(run.path.with_name(f"{run.name}-baselines"))
        _train(run, seed)
        _train_baselines(baselines, run, arguments, seed)
        _train_plain(plain, run, arguments)
        for model in arguments.models:
            for masked in (False, True):
                key = {
                    "set": arguments.set,
                    "model": model,
                    "seed": seed,
                    "masked": masked,
                    "split": "test",
                }
                of = plain if model.startswith(PLAIN) else baselines if model in TRAINED else run
                key |= {"run": of.name, "config": _fingerprint(of)}
                if not is_known(known, key):
                    yield key | _evaluate(arguments, seed, of, model, masked)
        yield from _gains(arguments, known, seed, run, (baselines, plain))


def _gains(
    arguments: argparse.Namespace,
    known: list[dict[str, Any]],
    seed: int,
    run: RunDir,
    others: tuple[RunDir, RunDir],
) -> Iterator[dict[str, Any]]:
    """SFT and RL against the better TIGER, on the same users, where that is not `known`."""
    for masked in (False, True):
        judged = {}
        for other, stage in zip(others, ("tiger", "direct"), strict=True):
            path = other.ranks_path(result_name(stage, "test", masked)).with_suffix(".json")
            if path.is_file():
                judged[f"{other.name}:{stage}"] = json.loads(path.read_text())["ndcg@10"]
        for of, prefix in ((run, ""), (others[1], PLAIN)):
            for stage in ("sft", "rl"):
                if not judged or not of.ranks_path(result_name(stage, "test", masked)).is_file():
                    continue
                tiger = max(judged, key=lambda one: judged[one])
                found = result("compare", tiger, f"{of.name}:{stage}", *_setting(masked))
                place = {"set": arguments.set, "model": f"{prefix}{stage} over TIGER", "seed": seed}
                place |= {"masked": masked, "split": "test", "against": tiger, "stage": stage}
                row = place | found["measures"]["ndcg@10"]
                if not is_known(known, row):
                    yield row | _made(arguments, seed)


def _setting(masked: bool) -> list[str]:
    """Options of `evaluate` and `compare`."""
    return ["--split", "test", *(["--mask-history"] if masked else [])]


def _made(arguments: argparse.Namespace, seed: int) -> dict[str, str]:
    """How a row is made again, and what on."""
    return {
        "command": f"python benchmarks/science.py --set {arguments.set} --seeds {seed}",
        "hardware": hardware(arguments.hardware, torch.device("cpu"), os.cpu_count() or 1),
    }


def _fingerprint(run: RunDir) -> str:
    """What a run was trained with: rows of other settings are measured again."""
    return hashlib.sha256((run.path / "config.yaml").read_bytes()).hexdigest()[:12]


def _train(run: RunDir, seed: int) -> None:
    if run.finished_stages() != list(STAGES):
        resume = ("--resume",) if run.path.exists() else ("--set", f"seed={seed}")
        command("train", "--stage", "all", "--run", run.name, *resume)


def _train_baselines(baselines: RunDir, run: RunDir, arguments: argparse.Namespace, seed: int) -> None:
    for baseline in TRAINED:
        if baseline in arguments.models and baselines.stage_result(baseline) is None:
            words: tuple[str, ...] = ()
            if not baselines.path.exists():
                config = f"configs/{arguments.set.lower()}.yaml"
                words = ("--from", run.name, "--config", config, "--set", f"seed={seed}")
            command("train", "--baseline", baseline, "--run", baselines.name, *words)


def _train_plain(plain: RunDir, run: RunDir, arguments: argparse.Namespace) -> None:
    """As far as the chosen models need."""
    wanted = {MODELS[model][1] for model in arguments.models if model.startswith(PLAIN)}
    stages = [stage for stage in STAGES if stage in wanted]
    if stages and not plain.path.exists():
        settings = ("model.evidence=0", *arguments.plain)
        words = [word for setting in settings for word in ("--set", setting)]
        command("train", "--stage", "pretrain", "--run", plain.name, "--from", run.name, *words)
    if stages and plain.stage_result(stages[-1]) is None:
        command("train", "--stage", stages[-1], "--run", plain.name, "--resume")


def _evaluate(
    arguments: argparse.Namespace, seed: int, run: RunDir, model: str, masked: bool
) -> dict[str, Any]:
    found = result("evaluate", run.name, "--stage", model.removeprefix(PLAIN), *_setting(masked))
    trained = MODELS[model][1]
    stage = run.stage_result(trained) if trained else None
    return {
        "stage": MODELS[model][1] or model,
        **{key: found[key] for measure in MEASURES for key in (measure, f"{measure}_ci")},
        "users": found["users"],
        "minutes": round(stage.seconds / 60, 1) if stage else 0.0,
        **_made(arguments, seed),
    }


def table(rows: list[dict[str, Any]], name: str) -> Iterator[str]:
    """Lines of Markdown: means over seeds; in brackets the 95 % interval of a seed, or the range of several."""
    yield "| model | R@10 | N@10 | R@10 masked | N@10 masked | seeds | minutes |"
    yield "|---|---|---|---|---|---|---|"
    for model, (title, _) in MODELS.items():
        own = [row for row in rows if row["set"] == name and row["model"] == model]
        if not own:
            continue
        cells = [
            _cell([row for row in own if row["masked"] == masked], measure)
            for masked in (False, True)
            for measure in ("recall@10", "ndcg@10")
        ]
        seeds = len({row["seed"] for row in own})
        minutes = sum(row["minutes"] for row in own) / len(own)
        yield f"| {title} | {' | '.join(cells)} | {seeds} | {minutes:.0f} |"


def gains(rows: list[dict[str, Any]], name: str) -> Iterator[str]:
    """Lines of Markdown: how far SFT and RL are ahead of the better TIGER, a line a seed."""
    found = [row for row in rows if row["set"] == name and "against" in row]
    if found:
        yield ""
        yield "| | seed | history | TIGER | N@10 | difference | relative | p |"
        yield "|---|---|---|---|---|---|---|---|"
    for row in found:
        history = "masked" if row["masked"] else "allowed"
        difference = f"{signed(row['difference'])} {interval(row['difference_ci'], signed)}"
        title = f"{_gain_title(row['model'])} | {row['seed']} | {history}"
        yield (
            f"| {title} | {four(row['a'])} | {four(row['b'])} | {difference} | "
            f"{100 * row['relative']:+.0f} % | {row['p']:.4f} |"
        )


def _gain_title(model: str) -> str:
    plain = model.removeprefix(PLAIN)
    return plain if plain == model else f"{plain}, both without evidence"


def _cell(rows: list[dict[str, Any]], measure: str) -> str:
    if not rows:
        return ""
    values = [row[measure] for row in rows]
    low, high = rows[0][f"{measure}_ci"] if len(rows) == 1 else (min(values), max(values))
    return f"{four(sum(values) / len(values))} {interval((low, high))}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--set", required=True, help="a data set that configs/ has a file of: Beauty, Scientific"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--plain",
        nargs="+",
        default=PLAIN_SETTINGS,
        metavar="KEY=VALUE",
        help="settings of the run without evidence",
    )
    parser.add_argument("--hardware", default="", help="what this runs on, for the record")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "science.json")
    parser.add_argument("--table", action="store_true", help="measure nothing; print the rows there are")
    return parser.parse_args()


if __name__ == "__main__":
    main()
