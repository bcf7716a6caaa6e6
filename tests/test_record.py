"""The record of a cluster: what commands would end and remove is checked before it is believed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cli.record import FOLDER, ClusterRecord, NodeRecord, read_record
from streamrec_dist.errors import EnvironmentProblem


def written(root: Path, **changes: object) -> Path:
    """A record as `up` writes it, but for some fields; its file."""
    record = ClusterRecord(
        root=str(root),
        config_path="cluster.yaml",
        cluster_id="0123456789abcdef" * 2,
        created_by_us=True,
        address="10.0.0.5:6379",
        temp_dir="/tmp/streamrec-abc",
        pids=(7, 8),
        nodes=(NodeRecord({"host": "gpu1"}, (5,), "/tmp/streamrec-01234567-89ab"),),
    )
    (root / FOLDER).mkdir(exist_ok=True)
    replace(record, config_path="other.yaml").save()
    path = root / FOLDER / "cluster.json"
    path.write_text(json.dumps(asdict(record) | changes), encoding="utf-8")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written(tmp_path)
    record = read_record(tmp_path)
    assert record is not None
    assert (record.pids, record.host, record.nodes[0].name) == ((7, 8), "10.0.0.5", "gpu1")
    assert read_record(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster_id": None},
        {"cluster_id": ""},
        {"cluster_id": "../x"},
        {"temp_dir": "/home"},
        {"temp_dir": ["/tmp/streamrec-a"]},
        {"pids": ["1"]},
        {"pids": 1},
        {"nodes": [{"settings": {"host": "-oProxyCommand=x"}, "pids": [], "folder": ""}]},
        {"nodes": {}},
        {"created_by_us": "yes"},
    ],
    ids=str,
)
def test_what_nobody_here_would_have_written_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    written(tmp_path, **changes)
    with pytest.raises(EnvironmentProblem, match="not a record of a cluster"):
        read_record(tmp_path)


@pytest.mark.parametrize("content", ["", "[" * 100_000, "{}", "null", "\udcff"], ids=len)
def test_what_is_no_record_is_refused(tmp_path: Path, content: str) -> None:
    written(tmp_path).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(EnvironmentProblem, match="start the cluster anew"):
        read_record(tmp_path)


def test_a_link_to_a_record_is_not_followed(tmp_path: Path) -> None:
    real = written(tmp_path)
    (tmp_path / "trap" / FOLDER).mkdir(parents=True)
    (tmp_path / "trap" / FOLDER / "cluster.json").symlink_to(real)
    with pytest.raises(EnvironmentProblem):
        read_record(tmp_path / "trap")
