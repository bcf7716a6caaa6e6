"""Evaluation: how well the validation items are found, over time, and against what RL began with."""

from __future__ import annotations

from rich.text import Text

from cli.dashboard.lines import heading, left, line, words, wrapped
from cli.dashboard.marks import brief, percent, sparkline
from cli.dashboard.panel import Panel
from cli.dashboard.scene import Scene, figure, figures
from cli.output import four, signed
from streamrec_dist.baselines.config import SCORES_ITEMS
from streamrec_dist.events import Event
from streamrec_dist.summary import StageSummary

MEASURES = {"NDCG@10": "ndcg@10", "Recall@10": "recall@10"}
#: Cells that both ends of an interval need.
WIDE = 34
#: By how much NDCG@10 differs from that of the weights which stage 3 began with, on the same users.
CHANGE = "ndcg@10_change"


def judged(scene: Scene) -> StageSummary | None:
    """The stage whose evaluations are shown: the current one, else that which was judged last."""
    if scene.stage and scene.stage.evaluations:
        return scene.stage
    newest = scene.summary.evaluation()
    return scene.summary.stages.get(newest.stage) if newest else None


def _draw(scene: Scene, width: int, height: int) -> list[Text]:
    stage = judged(scene)
    if stage is None or stage.evaluation is None:
        return []
    newest = stage.evaluation.metrics
    lines = []
    for name, key in MEASURES.items():
        value, course = figure(newest.get(key)), stage.evaluated.get(key)
        text = line((left(name, 10), "label"), left(_four(value), 7))
        if course:
            text.append(sparkline(course.means(), width - 17, scene.ascii_only), "mark")
        lines.append(text)
    told = [_change(scene, stage, width), *_best(stage, width), _invalid(stage, newest)]
    return (lines + wrapped([part for part in told if part], width))[:height]


def _four(value: float | None) -> str:
    return "-" if value is None else four(value)


def _change(scene: Scene, stage: StageSummary, width: int) -> str:
    """From what RL began with, which is what SFT ended with; from the first evaluation in other stages."""
    metrics = stage.evaluations[-1].metrics
    newest, first, change = figure(metrics.get("ndcg@10")), _first(scene, stage), figure(metrics.get(CHANGE))
    if change is None and newest is not None and first is not None:
        change = newest - first
    if change is None:
        return "since SFT -" if stage.name == "rl" else ""
    ends = figures(metrics.get(f"{CHANGE}_ci"))
    about = ""
    if len(ends) == 2:
        about = f" [{signed(ends[0])} {signed(ends[1])}]"
        if width < WIDE:
            about = f" {'+-' if scene.ascii_only else '±'}{four((ends[1] - ends[0]) / 2)}"
    return f"since {'SFT' if stage.name == 'rl' else 'first'} {signed(change)}{about}"


def faults(scene: Scene) -> list[str]:
    """What is wrong with the evaluations of stage 3, in words."""
    stage = scene.stage
    if stage is None or stage.name != "rl" or stage.evaluation is None:
        return []
    ends = figures(stage.evaluation.metrics.get(f"{CHANGE}_ci"))
    if len(ends) != 2 or ends[1] >= 0:
        return []
    return [f"validation NDCG@10 has fallen below that of SFT: {signed(ends[0])} to {signed(ends[1])}"]


def _first(scene: Scene, stage: StageSummary) -> float | None:
    """What the newest NDCG@10 is compared with."""
    course = stage.evaluated.get("ndcg@10")
    first = course.buckets[0] if course else None
    if stage.name != "rl":
        return first.total / first.count if first and len(course.buckets) > 1 else None  # type: ignore[union-attr]
    if first and first.first == 0 and first.count == 1:
        return first.total
    of_sft = figure(scene.summary.stages["sft"].outcome.get("ndcg@10"))
    return scene.taken_ndcg if of_sft is None else of_sft


def _best(stage: StageSummary, width: int) -> list[str]:
    known = [(value, event) for event in stage.evaluations if (value := _ndcg(event)) is not None]
    if not known:
        return []
    value, event = max(known, key=lambda pair: (pair[0], -pair[1].step))
    return [f"best {four(value)}@{brief(event.step) if width < WIDE else f'{event.step:,}'}"]


def _ndcg(event: Event) -> float | None:
    return figure(event.metrics.get("ndcg@10"))


def _invalid(stage: StageSummary, metrics: dict[str, object]) -> str:
    """Beams that are no item, where nothing keeps them to the catalogue; of a model that writes items."""
    if stage.name in SCORES_ITEMS:
        return ""
    return f"invalid {percent(figure(metrics.get('invalid_beam_share'))).replace(' ', '')}"


def _note(scene: Scene) -> str:
    stage = judged(scene)
    if stage is None or stage.evaluation is None:
        return ""
    users = figure(stage.evaluation.metrics.get("users"))
    about = f"{users:,.0f} users" if users else words(stage.evaluation.split, 20)
    return about if stage is scene.stage else f"{words(stage.name, 20)}, {about}"


PANEL = Panel(
    "evaluation",
    _draw,
    ("eval", "stage", "run"),
    lambda scene, width: [4],
    lambda scene, width: heading("evaluation", width, scene.ascii_only, _note(scene)),
    lambda scene: judged(scene) is not None,
)
