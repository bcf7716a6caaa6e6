"""What happened, in words: what is wrong just now, the last warnings, and how the run ended."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import groupby

from rich.text import Text

from cli.dashboard.lines import folded, heading, line, words
from cli.dashboard.panel import Panel
from cli.dashboard.panels import evaluation, policy, rewards
from cli.dashboard.scene import Scene
from cli.output import span

#: Cells of a time of day.
CLOCK = 10
#: Processes start within seconds, where there is room.
PATIENCE_S = 20.0
#: Lines that are of use.
MOST = 10


def _draw(scene: Scene, width: int, height: int) -> list[Text]:
    ending = _ending(scene, width, height)
    room = height - len(ending)
    wrong = [text for told in _faults(scene) for text in _told("", told, "warn", width, 1)]
    # Of what is wrong just now one line at least, and no more than leaves one to what happened.
    wrong = wrong[: max(1, room - min(2, len(scene.summary.warnings)))][: max(0, room)]
    lines = _warnings(scene, width, room - len(wrong)) + wrong + ending
    return lines or [line(("nothing out of the ordinary", "label"))]


def _faults(scene: Scene) -> list[str]:
    """What is wrong just now, the worst first."""
    now = replace(scene, at="")  # whichever stage is looked at
    return [*_waiting(now), *evaluation.faults(now), *policy.faults(now), *rewards.faults(now)]


def _waiting(scene: Scene) -> list[str]:
    """Processes for which there has been no room for long."""
    stage = scene.stage
    starting = sum(row.get("state") == "starting" for row in scene.summary.processes)
    waited = scene.until - stage.started if stage and stage.started else 0.0
    if scene.ended or not starting or stage is None or stage.step or waited < PATIENCE_S:
        return []
    told = f"{starting} processes have been waited for since {span(waited)}: is there room for them?"
    return [f"{told} streamrec-dist status tells who has the CPUs"]


def _warnings(scene: Scene, width: int, room: int) -> list[Text]:
    """The newest, the last one last; what was told several times in a row stands there once."""
    grouped = [list(same) for _, same in groupby(scene.summary.warnings, key=lambda event: event.message)]
    lines: list[Text] = []
    for same in reversed(grouped[-room:] if room > 0 else []):
        told = words(same[-1].message) + (f" ({len(same)} times)" if len(same) > 1 else "")
        left = room - len(lines)
        if left <= 0:
            break
        # The newest may take two lines where there is room for others beside.
        most = 2 if not lines and left > 2 else 1
        lines = [*_told(_clock(same[-1].t), told, "", width, most), *lines]
    return lines


def _ending(scene: Scene, width: int, height: int) -> list[Text]:
    """Why the run ended, and how it goes on."""
    ended, summary = scene.ended, scene.summary
    if not ended:
        return []
    if ended == "done":
        judge = f"done; how good it is tells: streamrec-dist evaluate {words(summary.run, 100)} --split test"
        return _told(_clock(summary.last), judge, "good", width, 1)
    style = "bad" if ended in ("failed", "lost") else "warn"
    told = words(summary.message) or "it did not say why"
    if ended == "lost":
        told = "nothing works on this run any more, and it did not say why"
    elif not told.startswith(ended):
        told = f"{words(ended, 20)}: {told}"
    after = f"it goes on with: streamrec-dist train --resume --run {words(summary.run, 100)}"
    most = max(1, min(4, height - 1))
    lines = _told(_clock(summary.last), told, style, width, most)
    return [*lines, *_told("", after, "", width, 1)][:height]


def _told(clock: str, text: str, style: str, width: int, most: int) -> list[Text]:
    """A message beside its time of day, in at most so many lines."""
    parts = folded(text, max(8, width - CLOCK), most)
    firsts = [clock] + [""] * (len(parts) - 1)
    return [
        line((first.ljust(CLOCK), "label"), (part, style)) for first, part in zip(firsts, parts, strict=True)
    ]


def _clock(t: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(t))


def _sizes(scene: Scene, width: int) -> list[int]:
    lines = max(1, len(_draw(scene, width, MOST)))
    # Of why it ended all is told, or as much as there is room for.
    ending = len(_ending(scene, width, MOST))
    return [1, *range(max(2, ending), lines + 1)]


def _note(scene: Scene) -> str:
    count = scene.summary.warned
    return f"{count:,} warnings in all" if count > 1 else ""


PANEL = Panel(
    "events",
    _draw,
    ("warning", "run", "step", "stage"),
    _sizes,
    lambda scene, width: heading("events", width, scene.ascii_only, _note(scene)),
    lambda scene: True,
)
