"""Following a run by its events until it ends, is left, or turns out to be dead.

The view reads events only. It holds no connection to Ray: a driver whose cluster dies is killed by Ray, and
a view must survive that. Only when a run has been silent for a while is the cluster asked about it.
"""

from __future__ import annotations

import time

from cli import cluster
from cli.dashboard.live import LiveView, can_be_live
from cli.dashboard.plain import PlainView, line
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


class Follower:
    """Reads the events of a run from now on.

    `starting` says that a controller is about to work on it, so that an earlier end does not count.
    """

    def __init__(self, run: RunDir, record: ClusterRecord | None, starting: bool = False):
        self.run, self.record, self.starting = run, record, starting
        self.state, self.reader = summarised(run)
        age = max(0.0, time.time() - self.state.last) if self.state.last and not starting else 0.0
        self.heard = time.monotonic() - age
        self.dead_answers = 0
        self.ask_at = self.heard + SILENCE_SECONDS
        if starting:
            self.state.ended = ""

    def follow(self, plain: bool = False, to_stderr: bool = False) -> str:
        """Show the run. Returns how it ended (done, failed, stopped), `detached` when it was left, or `lost`."""
        live = not plain and can_be_live(to_stderr)
        view = LiveView(to_stderr) if live else PlainView(to_stderr)
        try:
            with view:
                view.update(self.state, [])
                if not live and not self.starting:
                    self._show_past(view)
                while not self.state.ended:
                    if view.left(TICK_SECONDS):
                        return "detached"
                    view.update(self.state, self._read())
                    if not self.state.ended and self._is_dead():
                        return "lost"
        except KeyboardInterrupt:
            say_how_to_return(self.run.name)
            raise
        return self.state.ended

    def _show_past(self, view: LiveView | PlainView) -> None:
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
        self._read()
        return self.state.ended or ("lost" if self._is_dead() else "")

    def last_words(self) -> str:
        return last_words(self.run)

    def _read(self) -> list[Event]:
        events = self.reader.new()
        for event in events:
            self.state.apply(event)
        if events:
            self.heard, self.dead_answers = time.monotonic(), 0
            self.ask_at = self.heard + SILENCE_SECONDS
        return events

    def _is_dead(self) -> bool:
        """Whether nobody works on the run any more; asks after a silence, and twice before believing it."""
        if time.monotonic() < self.ask_at:
            return False
        if self._controller_lives():
            self.dead_answers = 0
            self.ask_at = time.monotonic() + SILENCE_SECONDS
            return False
        self.dead_answers += 1
        self.ask_at = time.monotonic() + ASK_AGAIN_SECONDS
        # Its last words may have been written between our reading and our asking.
        self._read()
        return self.dead_answers >= 2 and not self.state.ended

    def _controller_lives(self) -> bool:
        if self.record is None or not cluster.alive(self.record):
            return False
        try:
            cluster.connect(self.record, to_work=False)

            from cli.asking import run_alive

            return run_alive(self.run.path)
        except EnvironmentProblem:
            # The cluster went down while it was asked.
            return False
        finally:
            cluster.disconnect()


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
        raise RunError(
            f"run {run.name} died without a word: no controller works on it any more; {last_words(run)}\n"
            f"continue it from its last checkpoint with: {resume_line(run)}"
        )


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
