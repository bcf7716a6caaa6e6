"""A run on three machines: one of them is lost on the way, and comes back."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from cli.members import ROLES
from cli.processes import MARK
from cli.remote.node import NODE_MARK
from streamrec_dist.config_file import parse_config
from streamrec_dist.data.build import validate
from streamrec_dist.data.demo import demo_catalogue
from streamrec_dist.data.files import save_dataset
from streamrec_dist.events import Event
from streamrec_dist.model.weights import export_weights
from streamrec_dist.rundir import RunDir, StageResult
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.stages.tokenize import Tokenized
from tests.conftest import TINY, last_json
from tests.hosts import PROJECT, REPO, Host, cli, machines, missing, others, record_of, until, write_yaml
from tests.test_faults import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(missing()), reason=missing() or "possible")]

ONE, TWO = "10.77.0.2", "10.77.0.3"
CLUSTER = f"""\
cluster:
  cpus: 1
  roles: [learners]
  nodes:
  - {{host: {ONE}, cpus: 1, roles: [rollout]}}
  - {{host: {TWO}, cpus: 1, roles: [rollout, reward, evaluate]}}
"""
SETTINGS = [
    "data.path=null",
    "data.format=demo",
    # Evidence would want stage retrieve.
    "model.evidence=0",
    "learners.world_size=1",
    # One of them fits on a node beside the other roles.
    "actors.rollout.replicas=2",
    "actors.rollout.cpus=0.6",
    "actors.evaluate.replicas=1",
    "stages.rl.rows=all",
    "stages.rl.steps=100000",
    "stages.rl.prompts=64",
    # The commands need some of the cores, too.
    "stages.rl.eval_every=50",
]
#: An actor loads torch first, which takes its time where much else goes on.
START_SECONDS = 90
#: The copy of the code that a command brings is not kept for its sake after it has left.
CODE_GOES = {"RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S": "1"}
#: Detection takes 1.8 s as cli/ray_head.py says, 16 s with Ray's own settings; the run is at work on the same cores.
NOTICED_SECONDS = 8.0
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
LEFT_BEHIND = "fedcba9876543210" * 2
LEAVE = f"""
from pathlib import Path
from cli.here import this_place
from cli.record import ClusterRecord, NodeRecord, locked
two = NodeRecord({{"host": "{TWO}"}}, pids=(1,))
with locked(Path.cwd()):
    ClusterRecord(str(Path.cwd()), "cluster.yaml", "{LEFT_BEHIND}", True, this_place(), nodes=(two,)).save()
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Host]]:
    with machines(tmp_path_factory.mktemp("hosts"), ("head", "one", "two"), with_project="head") as started:
        write_yaml(started["head"], TINY.replace("cluster: {cpus: 2}\n", CLUSTER))
        yield started


def prepared_run(root: Path) -> RunDir:
    """A run that lacks stage rl only, with arbitrary ids and a model that has learned nothing."""
    text = (root / "cluster.yaml").read_text(encoding="utf-8")
    config = parse_config(text, "cluster.yaml", SETTINGS)
    run = RunDir.create(root / "runs", "spread", config)
    save_dataset(validate(demo_catalogue(users=80, items=60)), run.dataset_path)
    store, rng = RunStore(run.path), np.random.default_rng(0)
    n, levels, codes = store.dataset().n_items, config.items.levels, config.items.codes
    keys = rng.permutation(codes**levels)[:n]
    ids = np.stack([keys // codes**level % codes for level in range(levels)], axis=1).astype(np.int32)
    neighbours = rng.integers(0, n, (n, config.items.neighbours)).astype(np.int32)
    store.save_items(Tokenized(neighbours, ids, {"unused": np.zeros(1, np.float32)}, {}))
    weights = export_weights(store.materials(config, "rl").new_model())
    for stage in ("tokenize", "pretrain", "sft"):
        store.finish_stage(StageResult(stage, 1.0, 1, {}))
        store.save_weights(stage, weights)
    return run


def steps_on(run: RunDir, count: int) -> None:
    """Until so many more steps of stage rl are made."""

    def is_step(event: Event) -> bool:
        return event.kind == "step" and event.stage == "rl"

    wait_for(run, is_step, sum(map(is_step, run.all_events())) + count, seconds=60)


def roles_on(host: Host) -> set[str]:
    """Of which roles there are actors on a machine, going by the titles of its processes."""
    titles = set()
    for process in others(host):
        with suppress(psutil.NoSuchProcess):
            titles.update(process.cmdline()[:1])
    classes = {title.removeprefix("ray::").split(".")[0] for title in titles}
    return {role for name, role in ROLES.items() if name in classes}


def leave_behind(hosts: dict[str, Host]) -> None:
    """What a `down` leaves that did not reach node two: a process there, and the record of it."""
    marks = {MARK: LEFT_BEHIND, NODE_MARK: TWO}
    assert hosts["two"].run(["sh", "-c", "nohup sleep 600 > /dev/null 2>&1 &"], **marks).returncode == 0
    told = hosts["head"].run([sys.executable, "-c", LEAVE], cwd=PROJECT, PYTHONPATH=str(REPO))
    assert told.returncode == 0, told.stderr


def lose(head: Host, lost: Host) -> float:
    """End all processes of a node at once; how many seconds later the cluster has noticed."""
    program = ["env", f"PYTHONPATH={REPO}", "sh", "-c", f'cd {PROJECT}; exec "$@"', "sh"]
    program = ["nsenter", "-t", str(head.pid), "-m", "-p", "-n", "-u", "-i", *program]
    with subprocess.Popen(
        [*program, sys.executable, "-c", WATCH], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as watcher:
        assert watcher.stdout
        heard: list[str] = []

        def hear(word: str) -> str:
            # Ray says much beside: that the raylet has ended, and the end of its log.
            for line in watcher.stdout or ():
                heard.append(line)
                if line.startswith(word):
                    return line
            raise AssertionError(f"never {word!r}: {''.join(heard)}")

        hear("ready")
        killed = time.time()
        for process in others(lost):
            process.kill()
        said = hear("noticed ")
        watcher.stdout.read()
    return float(said.split()[1]) - killed


def cut_off(host: Host) -> None:
    """No packet gets to a machine any more."""
    _network(host, "link set eth0 down")


def join_again(host: Host) -> None:
    _network(host, "link set eth0 up")
    _network(host, "route add default dev eth0")


def _network(host: Host, command: str) -> None:
    entered = ["nsenter", "-t", str(host.pid), "-n", "ip", *shlex.split(command)]
    subprocess.run(entered, check=True, capture_output=True, timeout=20)


def test_a_run_over_machines_goes_on_without_one_and_uses_it_when_it_is_back(hosts: dict[str, Host]) -> None:
    head, one, two = hosts["head"], hosts["one"], hosts["two"]
    leave_behind(hosts)
    up = cli(head, "up", "--json")
    assert up.returncode == 0, up.stderr
    assert [node["state"] for node in last_json(up)["nodes"]] == ["started"] * 3
    assert not [process for process in others(two) if process.environ().get(MARK) == LEFT_BEHIND]

    run = prepared_run(head.folder / PROJECT[1:])
    begun = cli(head, "train", "--stage", "rl", "--resume", "--run", "spread", "--detach", **CODE_GOES)
    assert begun.returncode == 0, begun.stderr
    steps_on(run, 3)
    where = [{"controller", "store", "learners"}, {"rollout"}, {"rollout", "reward", "evaluate"}]
    until(lambda: [roles_on(host) for host in hosts.values()] == where, START_SECONDS)

    assert lose(head, one) < NOTICED_SECONDS
    steps_on(run, 10)
    assert not others(one)
    again = last_json(cli(head, "up", "--json"))
    states = {node["node"]: node["state"] for node in again["nodes"]}
    assert states == {"head": "running", ONE: "started", TWO: "running"}
    # The command that brought the code has left, and this machine has lost what it had.
    until(lambda: roles_on(one) == {"rollout"}, START_SECONDS)
    steps_on(run, 3)
    stopped = cli(head, "stop", "spread", "--json")
    assert stopped.returncode == 0 and last_json(stopped)["state"] == "stopped", stopped.stderr


def test_down_is_repeated_for_a_machine_that_was_cut_off(hosts: dict[str, Host]) -> None:
    head, two = hosts["head"], hosts["two"]
    cut_off(two)
    down = cli(head, "down", "--json")
    assert down.returncode == 3 and "streamrec-dist down --forget" in down.stderr
    body = last_json(down)
    assert body["state"] == "incomplete" and set(body["failures"]) == {TWO} and body["nodes"][ONE]
    assert not others(head) and not others(hosts["one"]) and others(two)
    record = record_of(head)
    assert [node.name for node in record.nodes] == [TWO] and not record.address
    join_again(two)
    down = cli(head, "down", "--json")
    assert down.returncode == 0, down.stderr
    body = last_json(down)
    assert body["state"] == "down" and body["nodes"][TWO] and body["failures"] == {}
    assert not any(others(host) for host in hosts.values())
    assert [path for host in hosts.values() for path in (host.folder / "tmp").glob("streamrec-*")] == []
