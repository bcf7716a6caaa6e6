"""Records of clusters with damaged bytes and odd values: read or refused, they name nothing that is not ours."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.cluster import find_record, reachable
from cli.here import this_place
from cli.record import FOLDER, ClusterRecord, NodeRecord
from streamrec_dist.cluster_config import ClusterConfig, NodeConfig
from tests.hostile import FUZZ, ODD, damaged, distorted, loads_or_refuses, replaced

#: What such a record could be made for.
EVIL = [
    "-oProxyCommand=touch x",
    "/tmp/streamrec-x/../..",
    "/etc",
    "a b:1",
    "127.0.0.1:99999",
    "127.0.0.1:-1",
]
EVIL += ["/tmp/streamrec-../x", "0" * 31, "0" * 33, ["rollout"], {"host": "-l"}, [{"settings": {}}]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / FOLDER).mkdir()
    (folder / "private.txt").write_text("untouched", encoding="utf-8")
    node = NodeConfig(host="gpu1", user="ada", port=2222, key="/keys/id", roles=("rollout",))
    ClusterRecord(
        root=str(folder),
        config_path=str(folder / "cluster.yaml"),
        cluster_id="0123456789abcdef" * 2,
        created_by_us=True,
        place=this_place(),
        address="127.0.0.1:1",
        temp_dir="/tmp/streamrec-abcdefgh",
        settings=ClusterConfig(nodes=(node,), head="10.0.0.5").model_dump(mode="json"),
        pids=(7, 8),
        nodes=(NodeRecord(node.model_dump(mode="json"), (5, 6)),),
    ).save()
    return folder


def use(root: Path) -> None:
    """All that commands make of a record before they reach, end or remove what it names."""
    record = find_record(root / "below")
    if record is None:
        return
    assert record.root == str(root) and record.token_path.parent == root / FOLDER
    assert re.fullmatch("[0-9a-f]{32}", record.cluster_id)
    assert not record.temp_dir or re.fullmatch("/tmp/streamrec-[^/]*", record.temp_dir)
    if record.address:
        # Not at the host that it names: that would be asked for, at length.
        port = record.address.rpartition(":")[2]
        reachable(f"127.0.0.1:{port}")
    assert isinstance(record.place.is_here(), bool)
    for node in record.nodes:
        assert not node.config.host.startswith("-") and node.name


def record_of(root: Path) -> Path:
    return root / FOLDER / "cluster.json"


def all_of(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_record_that_is_damaged_here_is_read_whole(root: Path) -> None:
    record = find_record(root)
    assert record is not None and record.nodes[0].config.user == "ada"
    assert set(asdict(record)) == set(json.loads(record_of(root).read_text(encoding="utf-8")))


@FUZZ
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused(root: Path, data: st.DataObject) -> None:
    before = all_of(root)
    others = [b"{}", b"null", b"[" * 5000, (root / "private.txt").read_bytes()]
    content = data.draw(damaged(record_of(root).read_bytes(), others))
    replaced(record_of(root), content, lambda: use(root))
    assert all_of(root) == before


@FUZZ
@given(data=st.data())
def test_odd_values_are_read_or_refused(root: Path, data: st.DataObject) -> None:
    before = all_of(root)
    whole = json.loads(record_of(root).read_text(encoding="utf-8"))
    content = json.dumps(data.draw(distorted(whole, [*ODD, *EVIL])))
    replaced(record_of(root), content.encode(), lambda: use(root))
    assert all_of(root) == before


@pytest.mark.parametrize("field", ["cluster_id", "temp_dir", "address", "place", "nodes"])
@pytest.mark.parametrize("value", [*ODD, *EVIL], ids=lambda value: repr(value)[:30])
def test_what_is_reached_ended_or_removed_has_no_odd_value(root: Path, field: str, value: object) -> None:
    content = json.dumps(json.loads(record_of(root).read_text(encoding="utf-8")) | {field: value})
    read = replaced(record_of(root), content.encode(), lambda: use(root))
    # No address, folder or node is that of a start that was not completed, or of a cluster without nodes.
    nothing = {"temp_dir": "", "address": "", "nodes": []}
    assert read is (field in nothing and value == nothing[field])
    assert loads_or_refuses(lambda: use(root))
