"""The logs of workers: which files they are, what is read of them, and whose they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli import worker_logs
from cli.here import this_place
from cli.logs import LogReader, pick
from cli.record import ClusterRecord
from streamrec_dist.errors import UsageError


def write(folder: Path, pid: int, class_name: str, text: str, written: float) -> Path:
    """The files that Ray makes for a worker."""
    out = folder / f"worker-{pid:056x}-01000000-{pid}.out"
    out.write_text(f":job_id:01000000\n:actor_name:{class_name}\n{text}", encoding="utf-8")
    err = out.with_suffix(".err")
    err.write_text(f":job_id:01000000\n:actor_name:{class_name}\nwarning\n", encoding="utf-8")
    for path in (out, err):
        os.utime(path, (written, written))
    return out


@pytest.fixture
def reader(tmp_path: Path) -> LogReader:
    """Two rollout actors that have ended, a reward actor, one of Ray's own, and a worker that was no actor."""
    folder = tmp_path / "ray" / "session_latest" / "logs"
    folder.mkdir(parents=True)
    # No process has these numbers: they are above the largest one that Linux gives.
    write(folder, 2**23, "RolloutActor", "first\n", written=1000)
    write(folder, 2**23 + 1, "RolloutActor", "one\ntwo\nthree\n", written=2000)
    write(folder, 2**23 + 2, "RewardActor", "", written=1500)
    write(folder, 2**23 + 3, "_StatsActor", "", written=1500)
    (folder / f"worker-{7:056x}-01000000-{2**23 + 4}.out").write_text(":job_id:01000000\n:task_name:f\n")
    return LogReader(
        ClusterRecord(
            str(tmp_path),
            "cluster.yaml",
            "0123456789abcdef" * 2,
            created_by_us=True,
            place=this_place(),
            temp_dir=str(tmp_path),
        )
    )


def test_logs_are_numbered_by_role_the_newest_first(reader: LogReader) -> None:
    logs = [(log.name, log.worker.pid - 2**23, log.worker.alive) for log in reader.logs()]
    assert logs == [("rollout/0", 1, False), ("rollout/1", 0, False), ("reward/0", 2, False)]


def test_a_role_alone_is_its_last_actor_when_none_lives(reader: LogReader) -> None:
    logs = reader.logs()
    assert [log.name for log in pick(logs, "rollout")] == ["rollout/0"]
    assert [log.name for log in pick(logs, "rollout/1")] == ["rollout/1"]
    for wanted, said in (
        ("rollout/2", "there are rollout/0 to rollout/1"),
        ("store", "no such actor has run"),
        ("rollouts", "roles: embed, annotate"),
        ("rollout/x", "such as rollout/0"),
        ("rollout/", "such as rollout/0"),
        ("rollout/²", "such as rollout/0"),
        ("rollout/" + "9" * 5000, "such as rollout/0"),
    ):
        with pytest.raises(UsageError, match=said):
            pick(logs, wanted)


def test_the_last_lines_are_shown_without_rays_markers_and_then_what_is_added(reader: LogReader) -> None:
    (log,) = pick(reader.logs(), "rollout/0")
    path = log.worker.out
    assert reader.last_lines(log, path, 2)[0] == "two\nthree\n"
    text, size = reader.last_lines(log, path, 50)
    assert text == "one\ntwo\nthree\n" and reader.last_lines(log, path, 0) == ("", size)
    with open(path, "a", encoding="utf-8") as file:
        file.write("four\nhalf a li")
    added = list(reader.follow([log], {path: size, log.worker.err: 1000}))
    assert added == [(log, path, "four\n")]


def test_a_file_that_is_gone_is_empty() -> None:
    assert worker_logs.last_lines("/no/such/file", 10) == ("", 0)
