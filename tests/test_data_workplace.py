"""Preparing is all or nothing: whatever interrupts it, the old or the new dataset is there."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamrec_dist.data.files import load_dataset
from streamrec_dist.data.prepare import prepare
from streamrec_dist.data.workplace import Workplace
from streamrec_dist.errors import UsageError
from tests.conftest import REPO, write_shop

#: Prepares argv[1] to argv[2] and waits for a kill when it comes to the part argv[3] or the call of os.argv[3].
SLOW = """
import os, sys, time
from pathlib import Path
from streamrec_dist.data import prepare as module
from streamrec_dist.data import workplace

source, out, stop = sys.argv[1:]

def wait(*arguments, **options):
    print("there", flush=True)
    time.sleep(60)

def say(part):
    if part == stop:
        wait()

if stop == "before the manifest":
    os.replace = wait
if stop == "after the manifest":
    workplace.shutil.rmtree = wait
module.prepare(Path(source), "csv", Path(out), say=say)
"""


def killed_prepare(source: Path, out: Path, stop: str) -> None:
    """Start preparing and kill the process at a point."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(source), str(out), stop],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(REPO), "PATH": ""},
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "there\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("stop", "there"),
    [
        ("sorting", False),
        ("writing", False),
        ("before the manifest", False),
        ("sorting", True),
        ("writing", True),
        ("before the manifest", True),
        ("after the manifest", True),
    ],
)
def test_a_killed_prepare_leaves_the_old_or_the_new_dataset(tmp_path: Path, stop: str, there: bool):
    write_shop(tmp_path / "shop")
    out = tmp_path / "out"
    old = prepare(tmp_path / "shop", "csv", out).content_hash if there else None
    interactions = tmp_path / "shop" / "interactions.csv"
    interactions.write_text(interactions.read_text().replace("u0,i0", "u0,i59"), encoding="utf-8")
    new = prepare(tmp_path / "shop", "csv", tmp_path / "reference").content_hash

    killed_prepare(tmp_path / "shop", out, stop)
    if not there:
        assert not out.exists()
    else:
        assert load_dataset(out).content_hash == (new if stop == "after the manifest" else old)
    assert list(tmp_path.glob(".out.*")), "a killed process leaves its temporary folder"

    assert prepare(tmp_path / "shop", "csv", out).content_hash == new
    assert load_dataset(out).content_hash == new
    assert not list(tmp_path.glob(".out.*")), "and the next one cleans it up"
    assert len(list(out.iterdir())) == 2


def test_two_processes_cannot_prepare_the_same_output(tmp_path: Path):
    write_shop(tmp_path / "shop")
    with Workplace(tmp_path / "out") as first:
        (first.folder / "work").write_text("going on")
        with pytest.raises(UsageError, match=r"another process is preparing .*out"):
            prepare(tmp_path / "shop", "csv", tmp_path / "out")
        assert (first.folder / "work").exists()
        prepare(tmp_path / "shop", "csv", tmp_path / "elsewhere")
        assert (first.folder / "work").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"shop", "elsewhere"}
    prepare(tmp_path / "shop", "csv", tmp_path / "out")


def test_a_place_where_nothing_can_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_shop(tmp_path / "shop")
    (tmp_path / "file").touch()
    for out in (Path("/proc/nowhere/out"), tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
        with pytest.raises(UsageError, match=rf"{out} cannot be used .*; give another --out"):
            prepare(tmp_path / "shop", "csv", out)

    def full(path: Path, *arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UsageError, match="No space left on device"):
        work = Workplace(tmp_path / "out")
        patch.setattr(type(work.folder), "mkdir", lambda path, **options: options or full(path))
        work.__enter__()
    assert {path.name for path in tmp_path.iterdir()} == {"shop", "file"}, "the lock is given back"


def test_names_that_begin_alike_do_not_meet(tmp_path: Path):
    with Workplace(tmp_path / "a.b") as other, Workplace(tmp_path / "a"):
        assert other.folder.is_dir()


def test_a_damaged_dataset_is_replaced_by_the_same_one(tmp_path: Path):
    write_shop(tmp_path / "shop")
    out = tmp_path / "out"
    first = prepare(tmp_path / "shop", "csv", out)
    (damaged,) = out.glob("files-*/users.arrow")
    damaged.write_bytes(b"")
    time.sleep(0.01)
    assert prepare(tmp_path / "shop", "csv", out).content_hash == first.content_hash
    assert load_dataset(out).content_hash == first.content_hash
    assert len(list(out.iterdir())) == 2
