"""The live view: events are reduced to a state, and the state is drawn within 80 x 24."""

from __future__ import annotations

import fcntl
import io
import math
import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.console import Console

from cli.dashboard.marks import bar, brief, number, percent, sparkline
from cli.dashboard.plain import line
from cli.dashboard.view import render
from streamrec_dist.config import Config
from streamrec_dist.events import Event, EventLog
from streamrec_dist.rundir import RunDir
from streamrec_dist.summary import RunSummary
from streamrec_dist.types import REWARDS
from tests.conftest import REPO, run_cli


def rl_metrics(step: int) -> dict[str, float]:
    rewards = {f"reward/{name}": 0.01 * step for name in (*REWARDS, "total")}
    spread = {f"spread/{name}": 0.3 for name in (*REWARDS, "total")}
    share = {f"share/{name}": 0.2 for name in REWARDS}
    flow = {
        "rollouts_per_s": 812.3,
        "staleness": 0.8,
        "learner_idle": 0.4,
        "rollout_idle": 0.1,
        "version": step,
    }
    return {**rewards, **spread, **share, **flow, "kl": 0.0123, "entropy": 3.21, "lr": 1e-5}


def whole_run() -> list[Event]:
    return [
        Event("run", state="started", t=100),
        Event("stage", "tokenize", state="skipped", t=100),
        Event("stage", "sft", state="started", total=4, t=100),
        Event("round", "sft", step=1, metrics={"leak": 2.5, "distance": [0.4, 0.2]}, t=101),
        *(
            Event("step", "sft", step=step, total=4, metrics={"loss": 1 / step}, t=100 + step)
            for step in (1, 2, 3, 4)
        ),
        Event("stage", "sft", state="done", t=105),
        Event("eval", "sft", step=4, split="valid", metrics={"ndcg@10": 0.1234, "recall@10": 0.2}, t=105),
        *(
            Event("step", "rl", step, 40, metrics=rl_metrics(step), t=110 + 0.5 * step)
            for step in range(1, 21)
        ),
    ]


def drawn(state: RunSummary, now: float, width: int = 80, ascii_only: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, height=24, color_system=None, legacy_windows=False)
    console.print(render(state, now, width, ascii_only))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_events_are_reduced_to_what_is_shown() -> None:
    state = RunSummary("demo").apply_all(whole_run())
    rl = state.current()
    assert rl is not None and (rl.name, rl.step, rl.total) == ("rl", 20, 40)
    assert rl.rate() == pytest.approx(2.0)
    assert rl.seconds_left() == pytest.approx(10.0)
    assert rl.courses["reward/total"].means() == pytest.approx([0.01 * step for step in range(1, 21)])
    assert state.stages["sft"].state == "done" and state.stages["sft"].metrics["loss"] == 0.25
    evaluation = state.evaluation()
    assert evaluation is not None and evaluation.metrics["ndcg@10"] == 0.1234
    assert state.ended == "" and state.stages["tokenize"].state == "skipped"


def test_an_ended_run_that_is_resumed_goes_on() -> None:
    state = RunSummary("demo").apply_all(
        [*whole_run(), Event("run", state="stopped", message="as asked", t=125)]
    )
    assert (state.ended, state.message) == ("stopped", "as asked")
    state.apply(Event("run", state="resumed", t=1000))
    state.apply(Event("step", "rl", 21, 40, t=1001))
    assert state.ended == ""
    assert state.stages["rl"].rate() is None, "the pause must not count as slow steps"


def test_steps_that_start_over_do_not_make_a_negative_rate() -> None:
    steps = [Event("step", "rl", step, 9, t=t) for step, t in ((5, 1), (6, 2), (4, 10), (5, 12))]
    assert RunSummary("demo").apply_all(steps).stages["rl"].rate() == pytest.approx(0.5)


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("width", [80, 60])
def test_everything_asked_for_fits_the_smallest_terminal(width: int, ascii_only: bool) -> None:
    events = [*whole_run(), *(Event("warning", message="long " * 60) for _ in range(5))]
    picture = drawn(RunSummary("demo").apply_all(events), 121, width, ascii_only)
    lines = picture.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= width
    for word in (
        *REWARDS,
        "total",
        "20/40",
        "50 %",
        "10 s left",
        "kl 0.0123",
        "entropy 3.21",
        "learner idle 40 %",
    ):
        assert word in picture
    if width == 80:
        for word in ("rollouts/s 812", "staleness 0.8", "actor idle 10 %", "N@10 .1234"):
            assert word in picture
    if ascii_only:
        assert picture.replace("…", "").isascii()


def test_names_and_messages_cannot_drive_the_terminal() -> None:
    events = [
        Event("stage", "r\x1b[31ml", state="started", t=1),
        Event("warning", message="[bold]a[/bold]\x1b]0;title\x07", t=1),
        Event("step", "x[red]", 1, 0, metrics={"[blink]loss\x1b[5m": 1.0}, t=2),
    ]
    picture = drawn(RunSummary("demo").apply_all(events), 3)
    assert "\x1b" not in picture and "\x07" not in picture
    assert "[bold]a[/bold]" in picture and "[blink]loss" in picture
    assert all("\x1b" not in line(event) for event in events)


def test_an_empty_run_and_one_without_totals_can_be_drawn() -> None:
    assert "starting" in drawn(RunSummary("demo"), 5)
    state = RunSummary("demo").apply_all([Event("step", "pretrain", 3, 0, metrics={"loss": None}, t=1)])
    assert "step 3" in drawn(state, 5)


def test_marks() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 2) == "▁█"
    assert sparkline([1, math.nan, 1], 8) == "▅▅"
    assert sparkline([], 8) == ""
    assert bar(0.5, 4, ascii_only=True) == "##--"
    assert bar(7, 2, ascii_only=True) == "##"
    assert [number(value) for value in (None, 3, 0.12345, 12.345, 1234.5, 1e-5)] == [
        *("-", "3", "0.1235", "12.35", "1234", "1.0e-05")
    ]
    assert (brief(3.14159), brief(64000.0), percent(0.123), percent(None)) == ("3.14", "64000", "12 %", "-")


def test_plain_lines() -> None:
    rl = Event("step", "rl", 3, 9, metrics=rl_metrics(3))
    assert line(rl).startswith("rl 3/9 total 0.0300 format 0.0300 exact_match 0.0300")
    assert line(Event("round", "sft", 2, metrics={"leak": 2.5, "distance": [0.5, 0.25]})) == (
        "sft round 2 leak 2.5000 distance [0.5000 0.2500]"
    )
    assert line(Event("run", state="failed", message="one\ntwo")) == "run failed: one two"


def made_run(root: Path, end: str) -> None:
    (root / "cluster.yaml").write_text("seed: 1\n", encoding="utf-8")
    run = RunDir.create(root / "runs", "demo", Config())
    ending = [Event("run", state=end, message="why", t=130)] if end else []
    EventLog(run.events_path).append([*whole_run(), *ending])


@pytest.mark.parametrize(("end", "code"), [("done", 0), ("stopped", 0), ("failed", 1)])
def test_an_ended_run_can_be_watched_again(tmp_path: Path, end: str, code: int) -> None:
    made_run(tmp_path, end)
    watched = run_cli("watch", cwd=tmp_path)
    assert watched.returncode == code
    assert watched.stdout.count("rl ") >= 20 and f"run {end}: why" in watched.stdout
    assert "demo" in watched.stderr


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"\x03", 130)])
def test_leaving_the_live_view_restores_the_terminal(tmp_path: Path, key: bytes, code: int) -> None:
    made_run(tmp_path, "")
    # An event of now: a run that has been silent for long would be taken for dead.
    EventLog(tmp_path / "runs" / "demo" / "events.jsonl").append([Event("step", "rl", 21, 40, metrics={})])
    terminal, inner = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(REPO), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    program = [sys.executable, "-m", "cli.app", "watch", "demo"]
    before = termios.tcgetattr(inner)
    child = subprocess.Popen(
        program,
        cwd=tmp_path,
        env=environment,
        stdin=inner,
        stdout=inner,
        stderr=inner,
        # The terminal must be the child's own, or Ctrl-C is no interrupt.
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    screen = read_until(terminal, b"q leaves this view")
    assert b"likelihood" in screen
    os.write(terminal, key)
    after = read_until(terminal, b"stop demo")
    assert child.wait(timeout=10) == code
    assert b"streamrec-dist watch demo" in after
    assert termios.tcgetattr(inner) == before
    os.close(inner)
    os.close(terminal)


def read_until(terminal: int, word: bytes, seconds: float = 20) -> bytes:
    screen, give_up = b"", time.monotonic() + seconds
    while word not in screen and time.monotonic() < give_up:
        if select.select([terminal], [], [], 0.2)[0]:
            screen += os.read(terminal, 65536)
    assert word in screen, screen
    return screen
