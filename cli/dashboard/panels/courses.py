"""The courses that say most about a stage, large."""

from __future__ import annotations

from rich.text import Text

from cli.dashboard.chart import area
from cli.dashboard.lines import heading
from cli.dashboard.panel import Panel
from cli.dashboard.panels.evaluation import judged
from cli.dashboard.scene import Scene

#: Lines that a chart needs.
LEAST = 5


def _measure(scene: Scene) -> str:
    return "reward/total" if scene.stage and scene.stage.name == "rl" else "loss"


def _course(scene: Scene, width: int, height: int) -> list[Text]:
    return area(scene.course(_measure(scene)), width, height, scene.ascii_only)


def _quality(scene: Scene, width: int, height: int) -> list[Text]:
    stage = judged(scene)
    return area(stage.evaluated.get("ndcg@10") if stage else None, width, height, scene.ascii_only)


def _heading(scene: Scene, width: int) -> Text:
    name = "total reward" if _measure(scene) == "reward/total" else "loss"
    return heading(name, width, scene.ascii_only)


def _has(scene: Scene) -> bool:
    return scene.course(_measure(scene)) is not None


COURSE = Panel("course", _course, ("step", "run", "stage"), lambda scene, width: [LEAST], _heading, _has)
QUALITY = Panel(
    "quality",
    _quality,
    ("eval", "stage", "run"),
    lambda scene, width: [LEAST],
    lambda scene, width: heading("NDCG@10", width, scene.ascii_only),
    lambda scene: judged(scene) is not None,
)
