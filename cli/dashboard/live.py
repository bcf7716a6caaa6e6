"""The view on a terminal: a screen that follows a run, four times a second, and takes keys."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console

from cli.dashboard.keyboard import Keyboard
from cli.dashboard.lines import ansi, fit, palette
from cli.dashboard.pages import REWARD_KEYS, HelpPage, LogPage, Page, RewardPage, RunPage, WorkersPage, legend
from cli.dashboard.painter import Painter
from cli.dashboard.scene import Scene, figure
from cli.dashboard.view import View
from cli.errand import Errand
from streamrec_dist.config import Config
from streamrec_dist.errors import StreamRecError
from streamrec_dist.events import Event
from streamrec_dist.rundir import RunDir
from streamrec_dist.summary import RunSummary
from streamrec_dist.summary_file import inherited

#: Ctrl-L, by which terminal programs are told that something else has written on their screen.
REDRAW = "\x0c"
#: How long an answer stays in the status line.
MESSAGE_S = 10.0
#: Columns and lines: of a terminal that does not tell, and the fewest that anything is drawn for.
USUAL, SMALLEST = (80, 24), (20, 4)


def can_be_live(to_stderr: bool = False) -> bool:
    """Whether the output is a terminal that can redraw."""
    stream = sys.stderr if to_stderr else sys.stdout
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class LiveView(View):
    """Shows a run until it is left; where it does not `stay`, until the run ends, of which the last screen remains.

    `clock` gives the time, in seconds since the epoch.
    """

    def __init__(
        self, run: RunDir, stay: bool, to_stderr: bool = False, clock: Callable[[], float] = time.time
    ):
        self.run, self.clock = run, clock
        stream = sys.stderr if to_stderr else sys.stdout
        console = Console(file=stream)
        self.ascii_only = not console.encoding.lower().startswith("utf")
        self.styles = palette(console)
        self.painter = Painter(stream.fileno(), console.encoding)
        self.keyboard = Keyboard(sys.stdin.fileno() if sys.stdin.isatty() else None)
        #: Without keys nobody could leave it.
        self.stays = stay and self.keyboard.descriptor is not None
        self.config = _config(run)
        self.taken, self.taken_ndcg = _taken(run)
        self.counts: Counter[str] = Counter()
        self.main = RunPage(self.counts)
        self.page: Page = self.main
        self.scene = Scene(RunSummary(run.name), clock())
        self.at = ""  # as the scene has it
        self.drawn: Any = None
        self.leaving = self.interrupted = self.terminated = self.suspended = self.resized = False
        self.stopping = False  # whether the question is asked
        self.message, self.said_at = ("", ""), 0.0
        self.errand: Errand | None = None
        self.cleanup = ExitStack()

    def __enter__(self) -> LiveView:
        # A signal must not cut a redraw in two: it is noted, and acted on between two of them.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGWINCH):
            self.cleanup.callback(signal.signal, number, signal.signal(number, self._note))
        self.cleanup.callback(self._leave)
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.page.close()
        self.cleanup.__exit__(kind, error, trace)

    def update(self, state: RunSummary, events: list[Event], lost: bool = False) -> None:
        """Take what has come, and show it."""
        self.counts.update(event.kind for event in events)
        taken = self.taken, self.taken_ndcg
        self.scene = Scene(state, self.clock(), self.config, *taken, lost, self.ascii_only, self.at)
        self._take_answers()
        self._draw()

    def left(self, seconds: float) -> bool:
        """Wait for keys; whether the view is to be left. Raises KeyboardInterrupt after Ctrl-C, SystemExit when
        terminated."""
        for key in self.keyboard.pressed(seconds):
            self._press(key)
        if self.interrupted:
            raise KeyboardInterrupt
        if self.terminated:
            raise SystemExit(128 + signal.SIGTERM)
        if self.suspended:
            self._suspend()
        self._draw()
        return self.leaving

    # the terminal

    def _enter(self) -> None:
        self.keyboard.enter()
        self.painter.enter()
        self.drawn = None

    def _leave(self) -> None:
        last = []
        if self.scene.ended and not self.stays:
            width, height = self._size()
            last = self.main.rows(self.scene, width, height - 1, self.styles)
            while last and not last[-1].strip():
                last.pop()
        self.painter.leave(last)
        self.keyboard.leave()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self.interrupted = True
        elif number == signal.SIGTERM:
            self.terminated = True
        elif number == signal.SIGTSTP:
            self.suspended = True
        else:
            self.resized = True

    def _suspend(self) -> None:
        """Give the terminal back while the shell has it; goes on where it was continued."""
        self.suspended = False
        self.painter.leave()
        self.keyboard.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()

    def _size(self) -> tuple[int, int]:
        size = os.get_terminal_size(self.painter.descriptor)
        if not size.columns or not size.lines:
            return USUAL
        return max(size.columns, SMALLEST[0]), max(size.lines, SMALLEST[1])

    def _draw(self) -> None:
        if self.resized:
            # Terminals move text about as they change their size.
            self.resized, self.drawn = False, None
            self.painter.forget()
        width, height = self._size()
        if self.message[0] and self.clock() - self.said_at > MESSAGE_S and self.errand is None:
            self.message = "", ""
        scene = self.scene
        page = id(self.page), self.page.changes
        frame = (
            self.counts.total(),
            int(scene.now),
            scene.ended,
            scene.at,
            width,
            height,
            self._status(),
            page,
        )
        if frame == self.drawn:
            return
        self.drawn = frame
        rows = self.page.rows(scene, width, height - 1, self.styles)
        status = fit(legend(self.page, self._status(), scene), width)
        self.painter.show([*rows, ansi(status, self.styles)])

    def _status(self) -> tuple[str, str]:
        if self.stopping:
            return f"stop run {self.run.name} after a checkpoint? y: yes, any other key: no", "warn"
        return self.message

    # keys

    def _press(self, key: str) -> None:
        if self.stopping:
            self.stopping = False
            if key in ("y", "Y"):
                self._ask("stop")
            return
        if key in ("q", "Q"):
            self.leaving = True
        elif key == REDRAW:
            self.resized = True
        elif key in ("s", "p", "c"):
            self._act(key)
        elif key in ("[", "]"):
            self.at = self.scene.beside(1 if key == "]" else -1)
            self.scene = replace(self.scene, at=self.at)
            self._show(self.main)
        elif key == "escape":
            self._show(self.main)
        elif key in ("?", "h"):
            self._show(HelpPage())
        elif key == "l":
            self._show(WorkersPage(self.run.path))
        elif key in REWARD_KEYS and not isinstance(self.page, WorkersPage):
            self._show(RewardPage(REWARD_KEYS[key]))
        else:
            self._show(self.page.press(key, self.scene))

    def _show(self, page: Page) -> None:
        if page is not self.page:
            self.page.close()
            self.page = page

    def _act(self, key: str) -> None:
        """Ask the controller for something, where there is one."""
        if self.scene.ended:
            self._say("the run has ended: there is nothing to stop, pause or keep", "label")
        elif self.errand is not None:
            self._say(f"the answer to {self.errand.task[0]} is not there yet", "label")
        elif key == "s":
            self.stopping = True
        elif key == "p":
            self._ask("resume" if self.scene.summary.paused else "pause")
        else:
            self._ask("checkpoint")

    def _ask(self, task: str) -> None:
        self.errand = Errand(self.run.path, task)
        self._say(f"{task}: asking the run ...", "label")

    def _take_answers(self) -> None:
        if isinstance(self.page, LogPage):
            self.page.poll()
        if self.errand is None:
            return
        over, task = self.errand.over, self.errand.task[0]
        for told in self.errand.told():
            error = told.get("error")
            self._say(f"{task}: {error or told['said']}", "bad" if error else "good")
            self.errand = None
            return
        if over:
            self._say(f"{task}: the cluster did not answer, or went away meanwhile", "bad")
            self.errand = None

    def _say(self, message: str, style: str) -> None:
        self.message, self.said_at = (message, style), self.clock()


def _config(run: RunDir) -> Config | None:
    """A run is shown without its limits rather than not at all."""
    try:
        return run.config()
    except (StreamRecError, OSError):
        return None


def _taken(run: RunDir) -> tuple[frozenset[str], float | None]:
    """The finished stages that a run has from another, and NDCG@10 of SFT there."""
    stages = inherited(run).stages
    done = frozenset(name for name, stage in stages.items() if stage.state in ("done", "skipped"))
    return done, figure(stages["sft"].outcome.get("ndcg@10"))
