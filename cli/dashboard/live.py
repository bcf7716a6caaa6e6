"""The view on a terminal: redrawn four times a second, left with `q`."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from contextlib import ExitStack
from types import FrameType, TracebackType

from rich.console import Console
from rich.live import Live

from cli.dashboard.view import render
from streamrec_dist.events import Event
from streamrec_dist.summary import RunSummary


def can_be_live(to_stderr: bool = False) -> bool:
    """Whether the output is a terminal that can redraw."""
    stream = sys.stderr if to_stderr else sys.stdout
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class LiveView:
    """Draws the state of a run in place and watches the keyboard."""

    def __init__(self, to_stderr: bool = False):
        self.console = Console(stderr=to_stderr)
        self.ascii_only = not self.console.encoding.lower().startswith("utf")
        self.live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
        self.keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        self.state: RunSummary | None = None
        self.interrupted = False
        self.cleanup = ExitStack()

    def __enter__(self) -> LiveView:
        if self.keys is not None:
            before = termios.tcgetattr(self.keys)
            self.cleanup.callback(termios.tcsetattr, self.keys, termios.TCSADRAIN, before)
            tty.setcbreak(self.keys)
        # Ctrl-C must not cut a redraw in two: it is noted, and acted on between two of them.
        before_signal = signal.signal(signal.SIGINT, self._interrupt)
        self.cleanup.callback(signal.signal, signal.SIGINT, before_signal)
        self.cleanup.enter_context(self.live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cleanup.__exit__(kind, error, trace)

    def update(self, state: RunSummary, events: list[Event]) -> None:
        width = self.console.width
        self.live.update(render(state, time.time(), width, self.ascii_only), refresh=True)

    def left(self, seconds: float) -> bool:
        """Wait; whether `q` was pressed meanwhile. Raises KeyboardInterrupt after Ctrl-C."""
        pressed = b""
        if self.keys is None:
            time.sleep(seconds)
        elif select.select([self.keys], [], [], seconds)[0]:
            pressed = os.read(self.keys, 64)
        if self.interrupted:
            raise KeyboardInterrupt
        return pressed.lower().startswith(b"q")

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
