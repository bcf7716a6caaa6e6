"""Staleness: how far the weights that sampled were behind those that learned, and how weights get around."""

from __future__ import annotations

from rich.text import Text

from cli.dashboard.lines import heading, left, line, right
from cli.dashboard.marks import bar, percent, short_span, sparkline
from cli.dashboard.panel import Panel
from cli.dashboard.scene import Scene

#: Lines below the histogram.
BELOW = 2


def _draw(scene: Scene, width: int, height: int) -> list[Text]:
    lines = _histogram(scene, width, max(1, height - BELOW))
    return [*lines, line(_waiting(scene)), line(_published(scene))][:height]


def _histogram(scene: Scene, width: int, height: int) -> list[Text]:
    """Shares of the prompts that were learned from, by versions behind: a bar each, or all in one line."""
    counts = scene.stage.staleness if scene.stage else []
    total = sum(counts)
    if not total:
        mean = scene.mean("staleness")
        return [line("nothing learned yet" if mean is None else f"{mean:.2g} versions behind")]
    if len(counts) > height:
        mean = sum(behind * count for behind, count in enumerate(counts)) / total
        told = " ".join(f"{behind}:{100 * count / total:.0f}%" for behind, count in enumerate(counts))
        if len(told) > width:
            told = sparkline(counts, width, scene.ascii_only)
        return [line((told, "mark")), line(f"mean {mean:.2g} behind")][:height]
    return [
        line(
            (left(str(behind), 2), "label"),
            (bar(count / total, max(0, width - 8), scene.ascii_only), "mark"),
            right(percent(count / total), 6),
        )
        for behind, count in enumerate(counts)
    ]


def _waiting(scene: Scene) -> str:
    """Prompts that are scored and not learned from, of those for which there is room."""
    buffered = scene.value("buffered")
    if buffered is None:
        return "waiting -"
    rl = scene.config.stages.rl if scene.config else None
    room = f" of {(rl.max_staleness + 1) * rl.prompts}" if rl else ""
    return f"waiting {buffered:.0f}{room}"


def _published(scene: Scene) -> str:
    """A step publishes weights as it ends; the actors have them a little later."""
    steps = scene.stage.steps if scene.stage else ()
    if not steps:
        return "weights -"
    adopted = scene.mean("adopted_s")
    told = "" if adopted is None else f" ({adopted:.2f}s)"
    return f"weights {short_span(scene.until - steps[-1][0])} old{told}"


def _bound(scene: Scene) -> str:
    return f"at most {scene.config.stages.rl.max_staleness}" if scene.config else ""


PANEL = Panel(
    "staleness",
    _draw,
    ("step", "run", "stage"),
    lambda scene, width: [3, BELOW + max(1, len(scene.stage.staleness) if scene.stage else 1)],
    lambda scene, width: heading("staleness", width, scene.ascii_only, _bound(scene)),
    lambda scene: scene.course("staleness") is not None,
    ticks=True,
)
