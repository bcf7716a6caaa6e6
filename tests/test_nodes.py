"""How nodes are reached and told what to run; what needs machines to reach is in test_hosts.py."""

from __future__ import annotations

import shlex
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from cli.here import this_place
from cli.nodes import find_head_address, node_command, node_variables
from cli.record import ClusterRecord, NodeRecord, locked, read_record
from cli.ssh import ssh_command, with_key
from streamrec_dist.cluster_config import ClusterConfig, NodeConfig
from streamrec_dist.errors import ConfigError
from tests.conftest import REPO, last_json, run_cli, write_shop
from tests.test_layers import imported

RECORD = ClusterRecord(
    "/project",
    "/project/cluster.yaml",
    "1234",
    created_by_us=True,
    place=this_place(),
    address="10.0.0.5:7000",
)


def test_ssh_gets_what_the_node_says_and_never_asks() -> None:
    plain = ssh_command(NodeConfig(host="gpu1"))
    assert plain[plain.index("--") + 1] == "gpu1" and not {"-l", "-p", "-i"} & set(plain)
    assert "BatchMode=yes" in plain and any(part.startswith("ConnectTimeout=") for part in plain)
    assert shlex.split(plain[-1]) == ["exec", sys.executable, "-I", "-"]
    full = ssh_command(NodeConfig(host="gpu1", user="ada", port=2222, key="/k", python="/my env/python"))
    assert {("-l", "ada"), ("-p", "2222"), ("-i", "/k")} <= set(pairwise(full))
    assert shlex.split(full[-1]) == ["exec", "/my env/python", "-I", "-"]


def test_a_key_is_meant_from_where_the_file_is_or_from_home(tmp_path: Path) -> None:
    assert with_key(NodeConfig(host="a", key="keys/id"), tmp_path).key == str(tmp_path / "keys" / "id")
    assert with_key(NodeConfig(host="a", key="~/id"), tmp_path).key == str(Path.home() / "id")
    assert with_key(NodeConfig(host="a"), tmp_path).key is None


def test_ray_is_told_the_roles_and_shares_of_a_node() -> None:
    node = NodeConfig(host="gpu1", roles=("rollout", "learners"), gpus=0, cpus=3)
    command = node_command(RECORD, node)
    assert '--resources={"role:rollout": 1, "role:learners": 1}' in command
    assert {"--num-gpus=0", "--num-cpus=3", "--address=10.0.0.5:7000", "--node-name=gpu1"} <= set(command)
    everything = node_command(RECORD, NodeConfig(host="gpu1"))
    assert not [part for part in everything if part.startswith(("--resources", "--num-"))]


def test_a_node_never_goes_without_the_token() -> None:
    variables = node_variables(RECORD, NodeConfig(host="gpu1", port=23))
    assert variables["RAY_AUTH_MODE"] == "token" and variables["RAY_AUTH_TOKEN_PATH"] == "{folder}/token"
    assert variables["STREAMREC_CLUSTER"] == "1234" and variables["STREAMREC_NODE"] == "gpu1:23"


def test_the_head_is_found_from_the_nodes_or_asked_for() -> None:
    nodes = (NodeConfig(host="127.0.0.1"),)
    assert find_head_address(ClusterConfig(head="10.0.0.5", nodes=nodes)) == "10.0.0.5"
    with pytest.raises(ConfigError, match="no other machine reaches"):
        find_head_address(ClusterConfig(nodes=nodes))
    with pytest.raises(ConfigError, match="is no address"):
        find_head_address(ClusterConfig(head="no-such-machine.invalid", nodes=nodes))


def test_a_record_keeps_its_nodes(tmp_path: Path) -> None:
    node = NodeConfig(host="gpu1", roles=("rollout",), key="/k")
    known = NodeRecord(node.model_dump(mode="json"), (3, 4))
    with locked(tmp_path):
        ClusterRecord(str(tmp_path), "c", "0123456789abcdef" * 2, True, this_place(), nodes=(known,)).save()
    record = read_record(tmp_path)
    assert record is not None and record.nodes == (known,)
    assert record.nodes[0].config == node and record.nodes[0].name == "gpu1"


@pytest.mark.parametrize("path", sorted((REPO / "cli" / "remote").glob("*.py")), ids=lambda path: path.name)
def test_what_runs_on_nodes_needs_the_standard_library_alone(path: Path) -> None:
    assert set(imported(path.read_text(encoding="utf-8"))) <= sys.stdlib_module_names


def test_an_address_that_this_machine_lacks_starts_nothing(tmp_path: Path) -> None:
    write_shop(tmp_path / "shop")
    text = "cluster: {head: 203.0.113.7, nodes: [{host: 203.0.113.8}]}"
    (tmp_path / "cluster.yaml").write_text(text, encoding="utf-8")
    refused = run_cli("up", cwd=tmp_path)
    assert refused.returncode == 3 and "203.0.113.7 is no address of this machine" in refused.stderr
    assert [path.name for path in (tmp_path / ".streamrec").iterdir()] == [".gitignore"]
    shown = last_json(run_cli("up", "--print-commands", "--json", cwd=tmp_path))["commands"]
    assert set(shown) == {"head", "203.0.113.8"} and "--head" in shown["head"][0]
    for command in (shown["head"][0], shown["203.0.113.8"][1]):
        assert "env -u RAY_ADDRESS -u RAY_AUTH_TOKEN RAY_AUTH_MODE=token " in command
