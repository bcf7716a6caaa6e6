"""What stages that learn from rows measure: losses, thoughts, the use of codebooks."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from cli.dashboard.lines import fit, heading, left, line, right, words, wrapped
from cli.dashboard.marks import bar, brief, number, percent, sparkline, trend
from cli.dashboard.panel import Panel
from cli.dashboard.scene import Scene, figure, figures
from streamrec_dist.baselines.config import SCORES_ITEMS

LOSSES: dict[str, tuple[str, ...]] = {
    "tokenize": ("loss", "recon", "embedded"),
    "pretrain": ("loss", "thinking", "direct"),
    "tiger": ("loss", "nll"),
    **dict.fromkeys(SCORES_ITEMS, ("loss",)),
    "sft": ("loss", "nll", "dpo", "quantisation", "state"),
}
#: What they are called for people; `recon` and the like are names of the events.
CALLED = {"recon": "reconstruction", "nll": "log-loss", "dpo": "DPO", "embedded": "texts embedded"}
#: Of a stage that is not known as many measures as this are shown.
FIRST = 5


def _names(scene: Scene) -> tuple[str, ...]:
    stage = scene.stage
    if stage is None:
        return ()
    known = LOSSES.get(stage.name, tuple(stage.metrics)[:FIRST])
    return tuple(name for name in known if scene.value(name) is not None)


def _losses(scene: Scene, width: int, height: int) -> list[Text]:
    lines = []
    for name in _names(scene)[:height]:
        means = scene.means(name)
        text = line(
            (left(words(CALLED.get(name, name), 40), 15), "title" if name == "loss" else ""),
            right(number(scene.value(name)), 8),
            (f" {trend(means, scene.ascii_only):<2}", "mark"),
        )
        lines.append(fit(text.append(sparkline(means, width - 26, scene.ascii_only), "mark"), width))
    return lines


# stage 2


def _thinking(scene: Scene, width: int, height: int) -> list[Text]:
    rounds = scene.stage.rounds if scene.stage else ()
    if not rounds:
        return []
    newest = rounds[-1].metrics
    lines = _distances(newest, width, scene.ascii_only)
    facts = wrapped(_facts(newest, scene.config.stages.sft.thoughts if scene.config else None), width)
    courses = []
    for name, key in (("leak", "leak"), ("own thoughts", "sampled_nll")):
        values = [value for event in rounds if (value := figure(event.metrics.get(key))) is not None]
        if len(values) > 1:
            text = line((left(name, 13), "label"), right(number(values[-1], 7), 7), " ")
            courses.append(text.append(sparkline(values, width - 21, scene.ascii_only), "mark"))
    return [*facts[: max(1, height - len(lines))], *lines, *courses][:height]


def _facts(metrics: dict[str, object], thoughts: int | None) -> Iterator[str]:
    """What a round measured: losses of the target after either kind of thoughts, what annotated ones give away."""
    rate = figure(metrics.get("rows_per_s"))
    if rate is not None:
        yield f"annotation {brief(rate)} rows/s"
    names = {"leak": "leak", "log-loss after own": "sampled_nll", "annotated": "gold_nll"}
    for name, key in names.items():
        if (value := figure(metrics.get(key))) is not None:
            yield f"{name} {brief(value)}"
    if (distinct := figure(metrics.get("distinct_thoughts"))) is not None:
        yield f"distinct {brief(distinct)}" + (f" of {thoughts}" if thoughts else "")
    if (copied := figure(metrics.get("target_share"))) is not None:
        yield f"codes of the target {percent(copied)}"


def _distances(metrics: dict[str, object], width: int, ascii_only: bool) -> list[Text]:
    """How far states are from the target after each thinking step."""
    lines = []
    for name, key in (("annotated", "distance"), ("own", "own_distance")):
        values = figures(metrics.get(key))
        if values:
            text = line((left(f"to target, {name}", 21), "label"))
            text.append(sparkline(values, len(values), ascii_only), "mark")
            text.append(f" {values[0]:.3f} to {values[-1]:.3f}")
            lines.append(fit(text, width))
    return lines


# stage 0


def _codebooks(scene: Scene, width: int, height: int) -> list[Text]:
    """Codes in use at each level of the ids."""
    metrics = _of_ids(scene)
    used, perplexity = _used(scene), figures(metrics.get("perplexity"))
    codes = scene.config.items.codes if scene.config else int(max(used))
    lines = []
    for level, count in enumerate(used[:height], start=1):
        evenly = f"  evenly as {perplexity[level - 1]:.0f}" if level <= len(perplexity) else ""
        text = line((left(f"level {level}", 9), "label"))
        told = f" {count:,.0f} of {codes:,}{evenly}"
        text.append(
            bar(count / max(codes, 1), max(4, min(40, width - 9 - len(told))), scene.ascii_only), "mark"
        )
        lines.append(fit(text.append(told), width))
    surplus = figure(metrics.get("surplus_share"))
    if surplus is not None:
        lines.append(line(f"items that shared an id before they were told apart: {surplus:.1%}"))
    return lines[:height]


def _levels(scene: Scene, width: int) -> list[int]:
    return [1 + len(_used(scene))]


def _used(scene: Scene) -> list[float]:
    return figures(_of_ids(scene).get("used_codes"))


def _of_ids(scene: Scene) -> dict[str, object]:
    return {**scene.stage.metrics, **scene.stage.outcome} if scene.stage else {}


LOSSES_PANEL = Panel(
    "losses",
    _losses,
    ("step", "run", "stage"),
    lambda scene, width: [len(_names(scene))],
    lambda scene, width: heading("losses", width, scene.ascii_only),
    lambda scene: bool(_names(scene)),
)
THINKING = Panel(
    "thinking",
    _thinking,
    ("round", "step", "stage"),
    lambda scene, width: sorted({4, max(4, len(_thinking(scene, width, 20)))}),
    lambda scene, width: heading("thoughts", width, scene.ascii_only, _round(scene)),
    lambda scene: bool(scene.stage and scene.stage.rounds),
)
CODEBOOKS = Panel(
    "codebooks",
    _codebooks,
    ("step", "stage"),
    _levels,
    lambda scene, width: heading("codebooks", width, scene.ascii_only, "codes in use"),
    lambda scene: bool(_used(scene)),
)


def _round(scene: Scene) -> str:
    return f"round {scene.stage.rounds[-1].step}" if scene.stage and scene.stage.rounds else ""
