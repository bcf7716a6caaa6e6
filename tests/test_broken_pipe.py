"""Who reads what a command prints may leave before the end: the command ends without a word, the run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamrec_dist.config import Config
from streamrec_dist.events import Event, EventLog
from streamrec_dist.rundir import RunDir
from tests.conftest import REPO


@pytest.mark.parametrize(
    ("arguments", "merged"),
    [
        (("watch", "one", "--plain"), False),
        (("watch", "one", "--plain"), True),
        (("watch", "one", "--plain", "--tensorboard"), False),
    ],
)
def test_a_reader_that_leaves_ends_a_command_quietly(
    tmp_path: Path, arguments: tuple[str, ...], merged: bool
) -> None:
    (tmp_path / "cluster.yaml").write_text("seed: 1\n", encoding="utf-8")
    run = RunDir.create(tmp_path / "runs", "one", Config())
    # More than a pipe takes, of a run that goes.
    steps = [Event("step", "rl", step, 9999, metrics={"kl": 0.5}) for step in range(1, 5000)]
    EventLog(run.events_path).append([Event("run", state="started"), *steps])
    before = run.events_path.read_bytes()
    child = subprocess.Popen(
        [sys.executable, "-m", "cli.app", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline()
    child.stdout.close()
    said = "" if child.stderr is None else child.stderr.read()
    # As of other programs that end so, its exit code tells.
    assert child.wait(timeout=30) == 1
    assert "Traceback" not in said and "Exception" not in said and "Broken pipe" not in said, said
    assert run.events_path.read_bytes() == before
