"""Following a run by its events until it ends, is left, or turns out to be dead.

A view reads events only. It holds no connection to Ray: a driver whose cluster dies is killed by Ray, and
a view must survive that. Only when a run has been silent for a while is the cluster asked about it, by a process of
its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cli import cluster
from cli.dashboard.plain import line
from cli.dashboard.view import View
from cli.errand import Errand
from cli.output import emit_json, note
from cli.plan import last_goal
from cli.record import ClusterRecord
from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.errors import EnvironmentProblem, RunError
from streamrec_dist.events import Event, EventReader, last_event
from streamrec_dist.rundir import RunDir
from streamrec_dist.summary_file import summarised

TICK_SECONDS = 0.25
SILENCE_SECONDS = 15.0
ASK_AGAIN_SECONDS = 4.0
#: A cluster whose processes are there, and which does not answer so often, is taken for dead.
UNANSWERED = 5


class Follower:
    """Reads the events of a run from now on.

    `starting` says that a controller is about to work on it, so that an earlier end does not count. `clock` gives
    the time, in seconds since the epoch.
    """

    def __init__(
        self,
        run: RunDir,
        record: ClusterRecord | None,
        starting: bool = False,
        clock: Callable[[], float] = time.time,
    ):
        self.run, self.record, self.starting = run, record, starting
        self.state, self.reader = summarised(run)
        age = max(0.0, clock() - self.state.last) if self.state.last and not starting else 0.0
        self.heard = time.monotonic() - age
        self.dead_answers = self.unanswered = 0
        self.ask_at = self.heard + SILENCE_SECONDS
        self.errand: Errand | None = None
        self.answers: list[dict[str, Any]] = []
        self.lost = False
        if starting:
            self.state.ended = ""

    def follow(self, view: View) -> str:
        """Show the run. Returns how it ended (done, failed, stopped), `detached` when it was left, or `lost`."""
        try:
            with view:
                view.update(self.state, [])
                if view.shows_past and not self.starting:
                    self._show_past(view)
                while True:
                    if self.ended and not view.stays:
                        return self.ended
                    if view.left(TICK_SECONDS):
                        return self.ended or "detached"
                    view.update(self.state, self._tick(), self.lost)
        except KeyboardInterrupt:
            if not self.state.ended:
                say_how_to_return(self.run.name)
            raise
        finally:
            if self.errand:
                self.errand.end()

    def _show_past(self, view: View) -> None:
        """All events there are; what is written meanwhile is left to the reader."""
        for events in EventReader(self.run.events_path).parts(self.reader.offset):
            view.update(self.state, events)

    def wait_for_end(self, seconds: float) -> str:
        """Wait without showing anything. Raises RunError at the deadline."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            if ended := self.end():
                return ended
            time.sleep(TICK_SECONDS)
        raise RunError(
            f"run {self.run.name} has not ended {seconds:.0f} s after it was asked to; {self.last_words()}; "
            "`streamrec-dist down` ends it with the whole cluster"
        )

    def end(self) -> str:
        """How the run ended, as `follow` says it; empty while it goes."""
        self._tick()
        return self.ended

    def last_words(self) -> str:
        return last_words(self.run)

    @property
    def ended(self) -> str:
        """How the run ended, or `lost`; empty while it goes."""
        return self.state.ended or ("lost" if self.lost else "")

    def _tick(self) -> list[Event]:
        """Take what has come, and find out whether more can be expected."""
        events = self._read()
        if events:
            self.lost = False
        if not self.ended and self._is_dead():
            # Its last words may have been written between our reading and our asking.
            words = self._read()
            self.lost = not words
            events += words
        return events

    def _read(self) -> list[Event]:
        events = self.reader.new()
        for event in events:
            self.state.apply(event)
        if events:
            self.heard, self.dead_answers, self.unanswered = time.monotonic(), 0, 0
            self.ask_at = self.heard + SILENCE_SECONDS
        return events

    def _is_dead(self) -> bool:
        """Whether nobody works on the run any more; asks after a silence, and twice before believing it."""
        if self.errand is None:
            if time.monotonic() < self.ask_at:
                return False
            if self._cluster_lives():
                self.errand, self.answers = Errand(self.run.path, "alive"), []
                return False
            return self._judge(False)
        over = self.errand.over
        self.answers += self.errand.told()
        if not over:
            return False
        self.errand = None
        if any("alive" in answer for answer in self.answers):
            self.unanswered = 0
            return self._judge(any(answer.get("alive") for answer in self.answers))
        # The cluster died meanwhile, as is seen next time, or the machine has too much to do.
        self.unanswered += 1
        return self._judge(self.unanswered < UNANSWERED)

    def _judge(self, lives: bool) -> bool:
        """Take an answer; whether it is the second in a row that says that the run is dead."""
        self.dead_answers = 0 if lives else self.dead_answers + 1
        certain = lives and not self.unanswered
        self.ask_at = time.monotonic() + (SILENCE_SECONDS if certain else ASK_AGAIN_SECONDS)
        return self.dead_answers >= 2

    def _cluster_lives(self) -> bool:
        try:
            return self.record is not None and cluster.alive(self.record)
        except EnvironmentProblem:
            return False


def finish(run: RunDir, state: str, begun: float, as_json: bool) -> None:
    """Say how a run ended and what to type next. Raises RunError when it failed or died."""
    if as_json:
        stages = {name: result.metrics for name in run.finished() if (result := run.stage_result(name))}
        seconds = round(time.monotonic() - begun, 1)
        emit_json({"run": run.name, "state": state, "stages": stages, "seconds": seconds})
    if state == "done":
        note(f"run {run.name} is done; next:")
        goal = last_goal(run)
        of = f" --stage {goal}" if goal in TRAINED else ""
        note(f"  streamrec-dist evaluate {run.name}{of} --split test")
        if not of:
            note(f"  streamrec-dist recommend {run.name} --user U --explain")
    elif state == "stopped":
        note(f"run {run.name} was stopped; continue it with:")
        note(f"  {resume_line(run)}")
    elif state == "detached":
        say_how_to_return(run.name)
    elif state == "failed":
        raise RunError(f"{_failure(run)}\ncontinue it with: {resume_line(run)}")
    else:
        lines = [f"run {run.name} died without a word: no controller works on it any more; {last_words(run)}"]
        try:
            cluster.find_cluster()
        except EnvironmentProblem as none:
            lines.append(str(none))
        lines.append(f"continue it from its last checkpoint with: {resume_line(run)}")
        raise RunError("\n".join(lines))


def say_how_to_return(name: str) -> None:
    note(f"run {name} goes on; show it again or stop it with:")
    note(f"  streamrec-dist watch {name}")
    note(f"  streamrec-dist stop {name}")


def last_words(run: RunDir) -> str:
    """The last event of a run, in words."""
    last = last_event(run.events_path)
    return f"its last event: {line(last)}" if last else "it has written no event"


def _failure(run: RunDir) -> str:
    message = summarised(run)[0].message
    return f"run {run.name} failed: {message}" if message else f"run {run.name} failed"


def resume_line(run: RunDir) -> str:
    """The command that continues a run, towards the baseline that it was last about if it was."""
    goal = last_goal(run)
    wanted = f"--baseline {goal}" if goal in TRAINED else "--stage all"
    return f"streamrec-dist train {wanted} --resume --run {run.name}"
