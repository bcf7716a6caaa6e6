"""Embedding through Ray Data on a real cluster: a killed run embeds only what is missing."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from cli.processes import cluster_processes
from cli.record import read_record
from streamrec_dist.events import EventReader
from streamrec_dist.items.shards import SHARD_ITEMS
from streamrec_dist.rundir import RunDir
from streamrec_dist.stages.run_store import RunStore
from tests.conftest import run_cli

pytestmark = pytest.mark.cluster

ITEMS = 2 * SHARD_ITEMS + 76


def write_large_shop(folder: Path) -> None:
    folder.mkdir()
    titles = [f"i{item},article {item} of the long catalogue size {item % 17}" for item in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item,title", *titles]) + "\n", encoding="utf-8")
    rows = [f"u{user},i{(5 * user + place) % ITEMS}" for user in range(300) for place in range(5)]
    (folder / "interactions.csv").write_text("\n".join(["user,item", *rows]) + "\n", encoding="utf-8")


def shards(run: RunDir) -> list[Path]:
    return sorted((run.items_path / "embeddings").glob("part-*.parquet"))


def test_a_killed_run_embeds_only_what_is_missing(cluster_root: Path) -> None:
    write_large_shop(cluster_root / "large")
    begun = ("--run", "cut", "--set", "data.path=large")
    started = run_cli("train", "--stage", "tokenize", *begun, "--detach", cwd=cluster_root)
    assert started.returncode == 0, started.stderr
    run = RunDir.open(cluster_root / "runs" / "cut")
    give_up = time.monotonic() + 120
    while not shards(run):
        assert time.monotonic() < give_up, "no shard within 120 s"
        time.sleep(0.05)
    record = read_record(cluster_root)
    assert record is not None
    killed = [
        process
        for process in cluster_processes(record.cluster_id)
        if any(name in " ".join(process.cmdline()) for name in ("ray::Controller", "ray::StoreActor"))
    ]
    assert len(killed) == 2
    for process in killed:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(killed, timeout=10)
    before = {path.name: path.stat().st_mtime_ns for path in shards(run)}
    assert 1 <= len(before) < 3, "the run was killed too late to show anything"
    parts = len(EventReader(run.events_path).new())

    # Ray starts the controller again, which goes on.
    ended = run_cli("watch", "cut", "--plain", cwd=cluster_root)
    assert ended.returncode == 0, ended.stderr
    result = run.stage_result("tokenize")
    assert result is not None and result.metrics["items"] == ITEMS
    after = {path.name: path.stat().st_mtime_ns for path in shards(run)}
    assert len(after) == 3 and {name: after[name] for name in before} == before
    embedded = [
        event.metrics["embedded"]
        for event in EventReader(run.events_path).new()[parts:]
        if event.kind == "step" and "embedded" in event.metrics
    ]
    assert len(embedded) == 3 - len(before) and embedded[-1] == ITEMS
    assert RunStore(run.path).embeddings().shape == (ITEMS, 384)
