"""Throughput of stage 3: how much is sampled and learned, what the time goes to, who has nothing to do."""

from __future__ import annotations

from rich.text import Text

from cli.dashboard.lines import heading, left, line, right, wrapped
from cli.dashboard.marks import bar, brief, percent
from cli.dashboard.panel import Panel
from cli.dashboard.scene import Scene
from cli.output import span

#: Parts of a step in the order in which they are done, and what they are called here.
PARTS = {
    "adopt": "take weights",
    "generate": "sample",
    "score": "score",
    "prepare": "prepare",
    "forward": "forward",
    "backward": "backward",
    "optimise": "optimise",
    "publish": "publish",
}
#: Parts that have a line of their own, and what the others are called together.
LINES, REST = 5, "all others"


def _draw(scene: Scene, width: int, height: int) -> list[Text]:
    lines = _rates(scene, width)[: max(1, height - 1)]
    return lines + _parts(scene, width, height - len(lines))


def _rates(scene: Scene, width: int) -> list[Text]:
    """Means of the last steps: what one of them has varies with what happened to end in it."""
    prompts = scene.config.stages.rl.prompts if scene.config else None
    silent = scene.mean("no_signal")
    of = f"/{prompts}" if prompts else ""
    pairs = [
        f"rollouts {_each_second(scene, 'rollouts_per_s')}",
        f"tokens {_each_second(scene, 'tokens_per_s')}",
        f"groups {_each_second(scene, 'groups_per_s')}",
        f"no signal {'-' if silent is None else f'{silent:.0f}{of}'}",
        f"idle learners {_percent(scene, 'learner_idle')} actors {_percent(scene, 'rollout_idle')}",
    ]
    return wrapped(pairs, width)


def _percent(scene: Scene, name: str) -> str:
    return percent(scene.mean(name)).replace(" ", "")


def _each_second(scene: Scene, name: str) -> str:
    value = scene.mean(name)
    return "-" if value is None else f"{brief(value)}/s"


def _parts(scene: Scene, width: int, height: int) -> list[Text]:
    """Seconds of a step by part, of all processes together, the longest first."""
    found = {name: scene.each_step(f"time/{name}") for name in PARTS}
    parts = sorted(((value, name) for name, value in found.items() if value), reverse=True)
    total = sum(value for value, _ in parts)
    seconds = scene.mean("seconds")
    step = f"step {_seconds(seconds)}" if seconds is not None else "step -"
    if height < 3 or not parts:
        shown = [f"{PARTS[name]} {percent(value / total)}" for value, name in parts]
        return wrapped([step, *shown], width)[:height]
    lines = [line((f"{step}, work of all processes in it:", "label"))]
    if len(parts) > height - 1:
        rest = parts[height - 2 :]
        parts = [*parts[: height - 2], (sum(value for value, _ in rest), REST)]
    for value, name in parts:
        cells = width - 13 - 5 - 8
        lines.append(
            line(
                (left(PARTS.get(name, name), 13), "label"),
                (bar(value / total, max(0, cells), scene.ascii_only), "mark"),
                right(percent(value / total), 5),
                right(_seconds(value), 8),
            )
        )
    return lines


def _seconds(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1}f} s" if value < 60 else span(value)


def _sizes(scene: Scene, width: int) -> list[int]:
    rates = len(_rates(scene, width))
    parts = sum(bool(scene.each_step(f"time/{name}")) for name in PARTS)
    return [4, *([rates + 1 + min(parts, LINES)] if parts > 1 else [])]


PANEL = Panel(
    "throughput",
    _draw,
    ("step", "run", "stage"),
    _sizes,
    lambda scene, width: heading("throughput", width, scene.ascii_only, "mean of the last steps"),
    lambda scene: scene.course("rollouts_per_s") is not None or scene.course("seconds") is not None,
)
