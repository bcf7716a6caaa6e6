"""A cluster of three machines, each with a network, processes, a home and a /tmp of its own; one has the project."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from cli.nodes import known_node, with_node
from cli.processes import MARK
from cli.record import NodeRecord
from tests.conftest import last_json
from tests.hosts import PROJECT, REPO, Host, cli, machines, missing, others, record_of, until, write_yaml

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(missing()), reason=missing() or "possible")]

YAML = """\
cluster:
  cpus: 1
  nodes:
  - {host: 10.77.0.2, cpus: 1, roles: [rollout, evaluate]}
  - {host: 10.77.0.3, cpus: 1, roles: [rollout]}
"""

#: A driver that leaves at once; its actor goes on, named as the real one is, which needs a model to start.
LEAVE = """
from cli import cluster
cluster.connect(cluster.find_cluster())
import ray

@ray.remote(num_cpus=0)
class RolloutActor:
    def say(self):
        import sys
        print("said on stdout", flush=True)
        print("said on stderr", file=sys.stderr, flush=True)

actor = RolloutActor.options(name="talker", lifetime="detached", resources={"node:10.77.0.3": 0.01}).remote()
ray.get(actor.say.remote(), timeout=60)
"""
THERE = """
from cli import cluster
cluster.connect(cluster.find_cluster())
import ray

@ray.remote(num_cpus=0, resources={"node:10.77.0.2": 0.01})
def where():
    import actors
    return actors.__file__

print(ray.get(where.remote(), timeout=60))
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Host]]:
    with machines(tmp_path_factory.mktemp("hosts"), ("head", "one", "two"), with_project="head") as started:
        write_yaml(started["head"], YAML)
        yield started


@pytest.fixture(scope="module")
def cluster(hosts: dict[str, Host]) -> dict[str, Any]:
    """What `up` says of the cluster it starts."""
    up = cli(hosts["head"], "up", "--json")
    assert up.returncode == 0, up.stderr
    return last_json(up)


def test_the_other_machines_have_nothing_of_the_project(hosts: dict[str, Host]) -> None:
    program = "from importlib.util import find_spec; print([bool(find_spec(n)) for n in ('ray', 'actors')])"
    assert hosts["one"].run([sys.executable, "-c", program], cwd="/tmp").stdout == "[True, False]\n"
    assert hosts["one"].run(["ls", str(REPO / "cli")]).returncode != 0


def test_commands_are_shown_and_nothing_starts(hosts: dict[str, Host]) -> None:
    shown = cli(hosts["head"], "up", "--print-commands")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert "--head --node-ip-address=10.77.0.1" in lines[0]
    assert sum(line.startswith("ssh ") and "BatchMode=yes" in line for line in lines) == 2
    assert sum("--address=10.77.0.1:PORT" in line and '"role:rollout": 1' in line for line in lines) == 2
    assert not any(process.name() in ("gcs_server", "raylet") for process in hosts["head"].processes())
    assert not (hosts["head"].folder / PROJECT[1:] / ".streamrec").exists()


def test_doctor_finds_machines_fit_before_anything_runs(hosts: dict[str, Host]) -> None:
    done = cli(hosts["head"], "doctor", "--json")
    findings = last_json(done)["findings"]
    assert done.returncode == 0, done.stdout
    states = {(finding["node"], finding["check"]): finding["state"] for finding in findings}
    machines_seen = ("head", "10.77.0.2", "10.77.0.3")
    assert {states[node, check] for node in machines_seen for check in ("python", "packages", "gpus")} == {
        "ok"
    }
    assert {states[node, check] for node in machines_seen[1:] for check in ("network", "clock")} == {"ok"}
    assert "problem" not in states.values()


def test_doctor_names_what_prevents_running_and_the_remedy(hosts: dict[str, Host]) -> None:
    nodes = "[{host: 10.77.0.2, gpus: 8}, {host: 10.77.0.3, python: /nowhere/python}, {host: 10.77.0.9}]"
    write_yaml(hosts["head"], f"cluster: {{nodes: {nodes}}}")
    try:
        done = cli(hosts["head"], "doctor", "--json")
    finally:
        write_yaml(hosts["head"], YAML)
    assert done.returncode == 3
    bad = {
        (one["node"], one["check"]): one["remedy"]
        for one in last_json(done)["findings"]
        if one["state"] == "problem"
    }
    assert set(bad) == {("10.77.0.2", "gpus"), ("10.77.0.3", "python"), ("10.77.0.9", "ssh")}
    assert "lower gpus" in bad["10.77.0.2", "gpus"] and "cluster.nodes[].python" in bad["10.77.0.3", "python"]
    assert "firewall" in bad["10.77.0.9", "ssh"]


def test_up_starts_every_node_with_its_roles(hosts: dict[str, Host], cluster: dict[str, Any]) -> None:
    assert [(node["node"], node["state"]) for node in cluster["nodes"]] == [
        ("head", "started"),
        ("10.77.0.2", "started"),
        ("10.77.0.3", "started"),
    ]
    status = last_json(cli(hosts["head"], "status", "--json"))
    seen = [(node["node"], node["address"], node["roles"], node["cpus"]) for node in status["members"]]
    assert seen == [
        ("head", "10.77.0.1", [], 1.0),
        ("10.77.0.2", "10.77.0.2", ["evaluate", "rollout"], 1.0),
        ("10.77.0.3", "10.77.0.3", ["rollout"], 1.0),
    ]
    again = last_json(cli(hosts["head"], "up", "--json"))
    assert [node["state"] for node in again["nodes"]] == ["running"] * 3
    assert [node["id"] for node in again["nodes"]] == [node["id"] for node in cluster["nodes"]]


def test_the_token_is_seen_nowhere_and_wanted_everywhere(
    hosts: dict[str, Host], cluster: dict[str, Any]
) -> None:
    token = record_of(hosts["head"]).token_path.name
    secret = (hosts["head"].folder / PROJECT[1:] / ".streamrec" / token).read_text(encoding="utf-8")
    for name in ("one", "two"):
        (folder,) = (hosts[name].folder / "tmp").glob("streamrec-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "token").stat().st_mode & 0o777 == 0o600
        assert (folder / "token").read_text(encoding="utf-8") == secret
    everything = [process for host in hosts.values() for process in host.processes()]
    told = [" ".join([*process.cmdline(), *process.environ().values()]) for process in everything]
    assert len(told) > 10 and not any(secret in text for text in told)
    program = f"import ray; ray.init(address={cluster['address']!r}); print('in')"
    quick = {"RAY_AUTH_MODE": "disabled", "RAY_NUM_REDIS_GET_RETRIES": "1"}
    stranger = hosts["one"].run([sys.executable, "-c", program], **quick)
    assert stranger.returncode != 0 and "in" not in stranger.stdout.split()
    assert "token" in stranger.stderr


def test_logs_are_read_from_their_nodes(hosts: dict[str, Host], cluster: dict[str, Any]) -> None:
    head = hosts["head"]
    done = head.run([sys.executable, "-c", LEAVE], cwd=PROJECT, PYTHONPATH=str(REPO))
    assert done.returncode == 0, done.stderr
    (log,) = last_json(cli(head, "logs", "rollout/0", "--json"))["logs"]
    assert log["log"] == "rollout/0" and log["node"] == "10.77.0.3"
    assert log["stdout"].splitlines() == ["said on stdout"] and "said on stderr" in log["stderr"]
    shown = cli(head, "logs", "rollout", "-n", "1")
    assert shown.stdout.splitlines()[0] == "said on stdout" and "rollout/0 on 10.77.0.3" in shown.stderr


def test_an_attached_cluster_gets_the_code_too(hosts: dict[str, Host], cluster: dict[str, Any]) -> None:
    head, record = hosts["head"], record_of(hosts["head"])
    folder = head.folder / "tmp" / "attached"
    folder.mkdir()
    (folder / "cluster.yaml").write_text(f"cluster: {{address: '{record.address}'}}", encoding="utf-8")
    variables = {"PYTHONPATH": str(REPO), "RAY_AUTH_TOKEN_PATH": f"{PROJECT}/.streamrec/token"}
    up = head.run([sys.executable, "-m", "cli.app", "up"], cwd="/tmp/attached", **variables)
    assert up.returncode == 0, up.stderr
    found = head.run([sys.executable, "-c", THERE], cwd="/tmp/attached", **variables)
    assert found.stdout.startswith("/tmp/streamrec-"), found.stderr


def test_other_settings_of_a_node_that_runs_are_refused(
    hosts: dict[str, Host], cluster: dict[str, Any]
) -> None:
    head, record = hosts["head"], record_of(hosts["head"])
    # An `up` that was interrupted, and asked for what the file says now, may leave a record of what never came.
    asked = with_node(record, NodeRecord({"host": "10.77.0.3", "cpus": 1, "roles": ["rollout", "learners"]}))
    write_yaml(head, YAML.replace("[rollout]", "[rollout, learners]"))
    try:
        for known in (record, asked):
            known.save()
            refused = cli(head, "up")
            assert refused.returncode == 2
            assert "roles of 10.77.0.3: ['rollout'] -> ['rollout', 'learners']" in refused.stderr
    finally:
        write_yaml(head, YAML)
        record.save()


def test_a_node_that_cannot_be_looked_at_is_named_and_not_forgotten(
    hosts: dict[str, Host], cluster: dict[str, Any]
) -> None:
    head, before = hosts["head"], record_of(hosts["head"])
    (share,) = (hosts["one"].folder / "tmp").glob("streamrec-*/share.json")
    share.rename(share.with_name("moved"))
    try:
        failed = cli(head, "up", "--json")
    finally:
        share.with_name("moved").rename(share)
    assert failed.returncode == 3 and "10.77.0.2: " in failed.stderr and "share.json" in failed.stderr
    assert known_node(record_of(head), "10.77.0.2") == known_node(before, "10.77.0.2")


def test_a_node_that_cannot_be_reached_is_named_and_the_others_go_on(
    hosts: dict[str, Host], cluster: dict[str, Any]
) -> None:
    head = hosts["head"]
    before = record_of(head)
    write_yaml(head, YAML + "  - {host: 10.77.0.9}\n")
    try:
        up = cli(head, "up", "--json")
    finally:
        write_yaml(head, YAML)
    assert up.returncode == 3
    assert "10.77.0.9: ssh: connect to host 10.77.0.9" in up.stderr and "it is off" in up.stderr
    assert [node["alive"] for node in last_json(up)["nodes"]] == [True, True, True, False]
    assert {node.name for node in record_of(head).nodes} == {node.name for node in before.nodes}


def test_down_leaves_nothing_on_any_machine(hosts: dict[str, Host], cluster: dict[str, Any]) -> None:
    assert all(others(host) for host in hosts.values())
    # Another cluster's process, one of ours that takes no notice of a polite request, and one that has written its
    # title over its environment, as Ray's workers do.
    waits = "import time; time.sleep(600)"
    stubborn = f"import signal; signal.signal(15, signal.SIG_IGN); {waits}"
    titled = f"from ray._raylet import setproctitle; setproctitle('ray::Titled'); {waits}"
    record, one = record_of(hosts["head"]), hosts["one"]
    (folder,) = (one.folder / "tmp").glob("streamrec-*")
    log = f"/tmp/{folder.name}/log"
    for cluster_id, program, output in (
        ("another", stubborn, "/dev/null"),
        (record.cluster_id, stubborn, "/dev/null"),
        (record.cluster_id, titled, log),
    ):
        marks = {MARK: cluster_id, "STREAMREC_NODE": "10.77.0.2"}
        command = f'nohup {sys.executable} -c "{program}" > {output} 2>&1 &'
        assert one.run(["sh", "-c", command], **marks).returncode == 0
    until(lambda: any(process.cmdline()[:1] == ["ray::Titled"] for process in one.processes()))
    down = cli(hosts["head"], "down", "--json")
    assert down.returncode == 0, down.stderr
    assert all(last_json(down)["nodes"][name] for name in ("10.77.0.2", "10.77.0.3"))
    left = {name: [process.environ().get(MARK) for process in others(host)] for name, host in hosts.items()}
    assert left == {"head": [], "one": ["another"], "two": []}
    assert [path for host in hosts.values() for path in (host.folder / "tmp").glob("streamrec-*")] == []
    assert [path.name for path in (hosts["head"].folder / PROJECT[1:] / ".streamrec").iterdir()] == [
        ".gitignore"
    ]
