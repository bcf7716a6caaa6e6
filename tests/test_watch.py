"""The live view in a real terminal: what it shows, its keys, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.scenes import HOSTILE, SCENES, make
from benchmarks.terminal import Terminal, has_tmux
from streamrec_dist.events import Event, EventLog
from tests.conftest import REPO, run_cli

GOLDENS = Path(__file__).parent / "goldens"
SIZES = ((80, 24), (120, 40))
SHOW = [sys.executable, str(REPO / "benchmarks" / "scenes.py")]
VARIABLES = {"PYTHONPATH": str(REPO), "TERM": "screen-256color"}
pytestmark = pytest.mark.skipif(not has_tmux(), reason="a real terminal needs tmux (apt-get install tmux)")


@pytest.mark.parametrize("scene", ["healthy", "restarting", "collapsed", "finished", "crashed"])
def test_screens_are_as_they_were(scene: str, request: pytest.FixtureRequest) -> None:
    (width, height), *others = SIZES
    with Terminal([*SHOW, scene], width, height, variables=VARIABLES) as terminal:
        compare(terminal, scene, request.config.getoption("--record"))
        for size in others:
            terminal.resize(*size)
            compare(terminal, scene, request.config.getoption("--record"))


def compare(terminal: Terminal, scene: str, record: bool) -> None:
    path = GOLDENS / f"watch-{scene}-{terminal.width}x{terminal.height}.txt"
    if record:
        path.parent.mkdir(exist_ok=True)
        path.write_text(settled(terminal), encoding="utf-8")
    golden = path.read_text(encoding="utf-8")
    assert terminal.wait_for(lambda text: text == golden, seconds=20) == golden


def settled(terminal: Terminal) -> str:
    """The screen of a terminal of its size, once it does not change any more."""
    before = ""
    while (text := terminal.wait_for(lambda text: "? help" in text.splitlines()[-1])) != before:
        before = text
        time.sleep(1)
    return text


def test_text_of_others_stays_in_its_place() -> None:
    with Terminal([*SHOW, "hostile"], 80, 24, variables=VARIABLES) as terminal:
        text = terminal.wait_for(lambda text: "? help" in text)
        styled = terminal.styled()
    rows = text.splitlines()
    assert len(rows) == 24
    assert rows[3].startswith("── rewards ─") and rows[3].endswith(" policy ───────────────")
    assert "1.0008 1±.2" in rows[7] and rows[-1].startswith("q leave")
    assert "[bold]tag[/bold] <b>html</b> \ufffdright\ufffd שלום" in text
    # Nothing of it is an escape, a colour of its own, or turns text about.
    assert not re.search("\x1b\\[31m|\x07|\u202e|\u2066|\u200d", styled) and "\x1b[31m" in HOSTILE


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[[str], Path]:
    """A folder with the run `demo` of a scene, which goes on just now if it goes on at all."""

    def made(scene: str) -> Path:
        (tmp_path / "cluster.yaml").write_text("seed: 1\n", encoding="utf-8")
        run, _ = make(tmp_path / "runs", scene)
        if scene == "healthy":
            # A run that has been silent for long would be taken for dead.
            EventLog(run.events_path).append([Event("step", "rl", 181, 400, metrics={})])
        return tmp_path

    return made


def watch(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cli.app", "watch", *arguments]


def in_a_shell(command: list[str]) -> list[str]:
    """A command in a shell that shows how it ended, and what was before it."""
    return ["sh", "-c", f"trap : INT; echo before; {' '.join(command)}; echo exit code $?; read never"]


@pytest.mark.parametrize(
    ("scene", "leave", "code", "said"),
    [
        ("healthy", lambda terminal: terminal.press("q"), 0, "streamrec-dist watch demo"),
        ("healthy", lambda terminal: terminal.press("C-c"), 130, "streamrec-dist stop demo"),
        ("healthy", lambda terminal: os.kill(watcher(terminal), 15), 143, ""),
        ("finished", lambda terminal: terminal.press("q"), 0, "run demo is done"),
        ("crashed", lambda terminal: terminal.press("q"), 1, "run demo failed: a learner process died four"),
        ("healthy", lambda terminal: spoil(terminal), 3, "Is a directory"),
    ],
)
def test_the_terminal_is_given_back_as_it_was(
    folder_of: Callable[[str], Path], scene: str, leave: Callable[[Terminal], None], code: int, said: str
) -> None:
    command = in_a_shell(watch("demo"))
    with Terminal(command, 80, 24, cwd=folder_of(scene), variables=VARIABLES) as terminal:
        assert "exact_match" in terminal.wait_for(lambda text: "? help" in text)
        assert (terminal.asked("alternate_on"), terminal.asked("cursor_flag")) == ("1", "0")
        leave(terminal)
        text = terminal.wait_for(lambda text: "exit code" in text)
        assert text.startswith("before\n") and f"exit code {code}\n" in text and said in text
        assert (terminal.asked("alternate_on"), terminal.asked("cursor_flag")) == ("0", "1")
        # What is typed is shown again, and ends with its line.
        terminal.press("y", "e", "s")
        assert "yes" in terminal.wait_for(lambda text: "yes" in text, seconds=5)


def spoil(terminal: Terminal) -> None:
    """Make the events of the run something that cannot be read."""
    assert terminal.cwd is not None
    events = terminal.cwd / "runs" / "demo" / "events.jsonl"
    events.unlink()
    events.mkdir()


def watcher(terminal: Terminal) -> int:
    """The process of `watch` in the shell of a terminal."""
    pid = int(Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split()[0])
    assert b"watch" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return pid


def test_keys(folder_of: Callable[[str], Path]) -> None:
    with Terminal(watch("demo"), 80, 24, cwd=folder_of("healthy"), variables=VARIABLES) as terminal:
        terminal.wait_for(lambda text: "? help" in text)

        def shown(key: str, word: str, gone: str = "") -> str:
            terminal.press(key)
            text = terminal.wait_for(lambda text: word in text and (not gone or gone not in text), seconds=20)
            assert word in text and (not gone or gone not in text), text
            return text

        assert "0.6411" in shown("3", "reward exact_match")
        shown("5", "reward likelihood")
        shown("Escape", "staleness")
        shown("?", "it explores no more")
        shown("Escape", "staleness", gone="it explores")
        # Something else writes on the screen: Ctrl-L has it drawn anew.
        Path(terminal.asked("pane_tty")).write_text("\x1b[5;1Hgarbage", encoding="utf-8")
        shown("C-l", "1 total", gone="garbage")
        shown("l", "whose log?")
        shown("Down", "  2 evaluate 1")
        # There is no cluster that could answer: what it says is what there is to be said.
        shown("Enter", "log of evaluate 1, process 4010")
        shown("Escape", "staleness")
        shown("p", "pause: no cluster in ")
        shown("s", "stop run demo after a checkpoint?")
        shown("n", "pause: no cluster in ", gone="stop run")
        shown("s", "stop run demo after a checkpoint?")
        shown("y", "stop: no cluster in ", gone="stop run")
        terminal.press("q")
        assert terminal.exit_code() == 0


def test_keys_that_act_are_off_when_a_run_has_ended(folder_of: Callable[[str], Path]) -> None:
    with Terminal(watch("demo"), 80, 24, cwd=folder_of("crashed"), variables=VARIABLES) as terminal:
        assert "s stop" not in terminal.wait_for(lambda text: "? help" in text)
        for key in ("s", "p", "c"):
            terminal.press(key)
            assert "there is nothing to" in terminal.wait_for(lambda text: "the run has ended" in text)


def test_a_run_that_ends_while_it_is_watched(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("healthy")
    log = EventLog(folder / "runs" / "demo" / "events.jsonl")
    with Terminal(watch("demo"), 80, 24, cwd=folder, variables=VARIABLES) as terminal:
        terminal.wait_for(lambda text: "? help" in text)
        log.append([Event("run", state="paused")])
        assert "p go on" in terminal.wait_for(lambda text: "paused," in text)
        log.append([Event("run", state="resumed"), Event("step", "rl", 200, 400, metrics={"kl": 0.5})])
        assert "KL to start  0.5000" in terminal.wait_for(lambda text: "200/400" in text)
        log.append([Event("run", state="failed", message="the disk is full")])
        text = terminal.wait_for(lambda text: "failed after" in text)
        assert "failed: the disk is full" in text and "train --resume --run demo" in text
        assert terminal.asked("alternate_on") == "1"


def test_no_colour(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("collapsed")
    styled = {}
    for name, value in (("coloured", ""), ("plain", "1")):
        variables = {**VARIABLES, "NO_COLOR": value}
        with Terminal(watch("demo"), 80, 24, cwd=folder, variables=variables) as terminal:
            assert "dead" in terminal.wait_for(lambda text: "? help" in text)
            styled[name] = terminal.styled()
    colour = re.compile(r"\x1b\[[0-9;]*(3[0-7]|38;5;\d+)[0-9;]*m")
    assert colour.search(styled["coloured"]) and not colour.search(styled["plain"])


def test_suspended_and_continued(folder_of: Callable[[str], Path]) -> None:
    command = ["bash", "--norc", "-i"]
    with Terminal(command, 80, 24, cwd=folder_of("healthy"), variables=VARIABLES) as terminal:
        terminal.press(" ".join(watch("demo")), "Enter")
        terminal.wait_for(lambda text: "? help" in text)
        terminal.press("C-z")
        assert "Stopped" in terminal.wait_for(lambda text: "Stopped" in text)
        assert (terminal.asked("alternate_on"), terminal.asked("cursor_flag")) == ("0", "1")
        terminal.press("fg", "Enter")
        assert "exact_match" in terminal.wait_for(lambda text: "? help" in text)


# without a terminal


def test_all_events_are_streamed_as_they_are_in_the_file(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("crashed")
    path = folder / "runs" / "demo" / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], "{broken", '{"t": NaN}', *lines[1:], ""]), encoding="utf-8")
    watched = run_cli("watch", "demo", "--json", cwd=folder)
    found = watched.stdout.splitlines()
    assert watched.returncode == 1
    assert [found[0], *found[3:]] == lines
    assert [json.loads(line)["kind"] for line in found[1:3]] == ["warning", "warning"]


def test_events_are_streamed_as_they_come(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("healthy")
    log = EventLog(folder / "runs" / "demo" / "events.jsonl")
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        watch("demo", "--json"), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        read: Iterator[dict] = map(json.loads, process.stdout)
        assert any(event.get("step") == 181 for event in read)
        log.append([Event("step", "rl", 182, 400, metrics={"kl": 0.25})])
        assert next(read)["metrics"] == {"kl": 0.25}
        log.append([Event("run", state="done")])
        assert [event["state"] for event in read] == ["done"]
        assert process.wait(timeout=20) == 0


def test_one_line_a_step_on_a_terminal_too(folder_of: Callable[[str], Path]) -> None:
    command = watch("demo", "--plain")
    with Terminal(command, 120, 40, cwd=folder_of("finished"), variables=VARIABLES) as terminal:
        text = terminal.wait_for(lambda text: "run done" in text)
        assert "rl 400/400 total" in text and terminal.exit_code() == 0


def test_watching_needs_no_torch_and_no_ray(folder_of: Callable[[str], Path]) -> None:
    program = (
        "import sys; from cli.app import app\n"
        "try: app(['watch', 'demo', '--plain'])\n"
        "except SystemExit as end: code = end.code\n"
        "import cli.dashboard.live\n"
        "print(code, [name for name in ('torch', 'ray', 'pandas', 'transformers') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder_of("finished"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_every_scene_is_of_events_that_are_read_as_they_were_made(tmp_path: Path) -> None:
    for scene, (events, _) in SCENES.items():
        made = list(events())
        assert [Event.from_json(event.to_json()) for event in made] == [event.plain() for event in made], (
            scene
        )
