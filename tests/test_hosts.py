"""A cluster of three machines, each with a network, processes, a home and a /tmp of its own; one has the project."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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
#: Detection takes 1.8 s as cli/ray_head.py says; on a busy machine a little longer.
NOTICED_SECONDS = 5.0

#: A driver that leaves at once; what it started goes on, and goes for the code again where it is asked to.
LEAVE = """
from cli import cluster
cluster.connect(cluster.find_cluster())
import ray

@ray.remote(num_cpus=0)
def where(name):
    import importlib, socket
    return socket.gethostname(), importlib.import_module(name).__file__

@ray.remote(num_cpus=0)
class Starter:
    def there(self, address, name):
        return ray.get(where.options(resources={f"node:{address}": 0.01}).remote(name), timeout=60)

# Named as the real one is, which needs a model to start.
@ray.remote(num_cpus=0)
class RolloutActor:
    def say(self):
        import sys
        print("said on stdout", flush=True)
        print("said on stderr", file=sys.stderr, flush=True)

actor = RolloutActor.options(name="talker", lifetime="detached", resources={"node:10.77.0.3": 0.01}).remote()
ray.get(actor.say.remote(), timeout=60)
starter = Starter.options(name="starter", lifetime="detached", resources={"node:10.77.0.1": 0.01}).remote()
print(ray.get(starter.there.remote("10.77.0.3", "actors.rollout"), timeout=60))
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
ASK = """
from cli import cluster
cluster.connect(cluster.find_cluster(), to_work=False)
import ray
print(ray.get(ray.get_actor("starter").there.remote("10.77.0.2", "learners"), timeout=60))
"""
#: Says when it is ready, and how long after it the node was given up.
WATCH = """
import time
from cli import cluster, members
cluster.connect(cluster.find_cluster(), to_work=False)
print("ready", flush=True)
while all(member.alive for member in members.members()):
    time.sleep(0.02)
print("noticed", time.time(), flush=True)
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


def driver(head: Host, program: str) -> str:
    """What a driver prints last. The copy of the code it brings is not kept for its sake after it has left."""
    more = {"PYTHONPATH": str(REPO), "RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S": "1"}
    done = head.run([sys.executable, "-c", program], cwd=PROJECT, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


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


def test_a_dead_node_is_noticed_started_again_and_gets_the_code_anew(
    hosts: dict[str, Host], cluster: dict[str, Any]
) -> None:
    head = hosts["head"]
    name, place = eval(driver(head, LEAVE))
    assert name == "two" and place.startswith("/tmp/streamrec-")
    entered = ["nsenter", "-t", str(head.pid), "-m", "-p", "-n", "-u", "-i"]
    program = [*entered, "env", f"PYTHONPATH={REPO}", "sh", "-c", f'cd {PROJECT}; exec "$@"', "sh"]
    with subprocess.Popen(
        [*program, sys.executable, "-c", WATCH], stdout=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdout and watcher.stdout.readline() == "ready\n"
        (raylet,) = [process for process in hosts["one"].processes() if process.name() == "raylet"]
        raylet.kill()
        killed = time.time()
        # Ray prints that the raylet has ended, and the end of its log, on stdout too.
        said = next(line for line in watcher.stdout if line.startswith("noticed "))
        noticed = float(said.split()[1]) - killed
        watcher.stdout.read()
    assert noticed < NOTICED_SECONDS
    print(f"noticed after {noticed:.2f} s")
    assert_logs_are_read_from_their_nodes(head)
    assert_a_node_that_cannot_be_started_again_is_not_forgotten(head, hosts["one"])
    again = last_json(cli(head, "up", "--json"))
    states = {node["node"]: node["state"] for node in again["nodes"]}
    assert states == {"head": "running", "10.77.0.2": "started", "10.77.0.3": "running"}
    # The driver that brought the code has left, and this node has never seen it.
    name, place = eval(driver(head, ASK))
    assert name == "one" and place.startswith("/tmp/streamrec-")


def assert_a_node_that_cannot_be_started_again_is_not_forgotten(head: Host, one: Host) -> None:
    (folder,) = (one.folder / "tmp").glob("streamrec-*")
    os.chown(folder, 65534, 65534)
    before = known_node(record_of(head), "10.77.0.2")
    try:
        failed = cli(head, "up", "--json")
    finally:
        os.chown(folder, 0, 0)
    assert failed.returncode == 3 and "was made by somebody else" in failed.stderr
    assert before and known_node(record_of(head), "10.77.0.2") == before


def assert_logs_are_read_from_their_nodes(head: Host) -> None:
    """The actor that printed something ran on a node that is up: the one whose raylet was killed has no role left."""
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
