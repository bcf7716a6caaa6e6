"""The life of a real cluster: private, found by every command, and gone without a trace, alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli.processes import MARK, cluster_processes, end_processes
from cli.record import ClusterRecord, read_record
from tests.conftest import REPO, TINY, last_json, run_cli

pytestmark = pytest.mark.cluster

#: A driver that tells at which addresses it, its worker and the processes of the cluster listen.
LISTENING = """
import json, os
from cli import cluster
from cli.processes import cluster_processes
record = cluster.find_cluster()
cluster.connect(record)
import psutil, ray

def listens(process):
    found = [one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    return [ip.removeprefix("::ffff:") for ip in found]

@ray.remote(num_cpus=1)
def worker():
    return os.getpid()

told = {}
names = {ray.get(worker.remote(), timeout=60): "worker", os.getpid(): "driver"}
for process in [psutil.Process(), *cluster_processes(record.cluster_id, record.temp_dir)]:
    told.setdefault(names.get(process.pid, process.name()), []).extend(listens(process))
print(json.dumps({name: addresses for name, addresses in told.items() if addresses}))
"""


def record_of(root: Path) -> ClusterRecord:
    record = read_record(root)
    assert record is not None
    return record


def drive(root: Path, program: str, *arguments: str) -> str:
    """What a driver prints that works in the cluster of a folder."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(REPO)!r})\n{program}", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def told_of(process: psutil.Process) -> str:
    """Where a process looks for the token of a cluster; empty when it belongs to none."""
    try:
        environment = process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
    return environment.get("RAY_AUTH_TOKEN_PATH", "") if MARK in environment else ""


def gone(pids: list[int], seconds: float = 10) -> bool:
    """Whether none of these processes runs any more."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
            return True
        time.sleep(0.2)
    return False


@pytest.fixture
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A process that looks like Ray's but belongs to another cluster."""
    script = tmp_path_factory.mktemp("stranger") / "raylet"
    script.write_text("import time\ntime.sleep(600)\n")
    environment = {**os.environ, MARK: "another-cluster"}
    process = subprocess.Popen([sys.executable, str(script)], env=environment)
    yield process.pid
    assert process.poll() is None, "a process of another cluster was ended"
    process.kill()
    process.wait()


def test_the_cluster_is_private(cluster_root: Path) -> None:
    record = record_of(cluster_root)
    modes = {path.name: path.stat().st_mode & 0o777 for path in record.folder.iterdir()}
    assert record.folder.stat().st_mode & 0o777 == 0o700
    assert modes["cluster.json"] == 0o600 and modes["token"] == 0o600
    assert Path(record.temp_dir).stat().st_mode & 0o777 == 0o700
    # Workers and drivers listen too: there is one of each while this is looked at.
    listening = json.loads(drive(cluster_root, LISTENING).splitlines()[-1])
    assert {"gcs_server", "raylet", "worker", "driver"} <= set(listening)
    assert {address for addresses in listening.values() for address in addresses} == {"127.0.0.1"}


def test_the_cluster_wants_its_token(cluster_root: Path) -> None:
    record = record_of(cluster_root)
    program = f"import ray; ray.init(address={record.address!r}); print('in')"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    plain |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_NUM_REDIS_GET_RETRIES": "1"}
    right = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": record.token_path.read_text()}
    for extra, enters in (({}, False), ({**right, "RAY_AUTH_TOKEN": "wrong" * 8}, False), (right, True)):
        tried = subprocess.run(
            [sys.executable, "-c", program],
            env={**plain, **extra},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ("in" in tried.stdout.split()) is enters, tried.stderr


def test_up_again_changes_nothing(cluster_root: Path) -> None:
    before = record_of(cluster_root)
    again = run_cli("up", "cluster.yaml", "--json", cwd=cluster_root)
    assert again.returncode == 0 and last_json(again)["state"] == "running"
    assert record_of(cluster_root) == before


def test_other_settings_are_refused_with_the_way_out(cluster_root: Path) -> None:
    other = cluster_root / "other.yaml"
    other.write_text(TINY.replace("cpus: 2", "cpus: 1"), encoding="utf-8")
    refused = run_cli("up", "other.yaml", cwd=cluster_root)
    assert refused.returncode == 2
    assert "cluster.cpus: 2 -> 1" in refused.stderr and "streamrec-dist down" in refused.stderr


def test_status_is_found_from_a_folder_below(cluster_root: Path) -> None:
    below = cluster_root / "shop"
    status = last_json(run_cli("status", "--json", cwd=below))
    assert status["nodes"] == 1 and status["total"]["CPU"] == 2 and status["runs"] == []
    assert status["root"] == str(cluster_root)
    shown = run_cli("status", cwd=below)
    assert shown.returncode == 0 and "2 free of 2" in shown.stdout


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("learners.world_size=8", "CPUs"),
        ("actors.rollout.cpus=64", "actors.rollout"),
        ("learners.gpus=1", "GPU"),
        ("stages.rl.step=1", "did you mean steps?"),
    ],
)
def test_train_asks_for_no_more_than_there_is(cluster_root: Path, override: str, said: str) -> None:
    refused = run_cli("train", "--stage", "rl", "--run", "big", "--set", override, cwd=cluster_root)
    assert refused.returncode == 2 and said in refused.stderr
    assert not (cluster_root / "runs" / "big").exists()


def test_only_and_taken_names_are_refused(cluster_root: Path) -> None:
    refused = run_cli("train", "--stage", "sft", "--run", "new", "--only", cwd=cluster_root)
    assert refused.returncode == 2 and "lacks tokenize, retrieve, pretrain" in refused.stderr
    refused = run_cli("train", "--stage", "sft", "--run", "../new", cwd=cluster_root)
    assert refused.returncode == 2 and "cannot name a run" in refused.stderr
    assert not (cluster_root / "runs").exists()


#: An actor that is named as a real one, which needs a model to start; it goes on when its driver has left.
TALKER = """
import sys
from cli import cluster
cluster.connect(cluster.find_cluster())
import ray

@ray.remote(num_cpus=0)
class RolloutActor:
    def say(self, text):
        print(text, flush=True)

talker = RolloutActor.options(name="talker", lifetime="detached", get_if_exists=True).remote()
ray.get(talker.say.remote(sys.argv[1]), timeout=60)
if sys.argv[1] == "last":
    ray.kill(talker)
"""
#: A controller that is killed, and takes its time to start again; what is said to go meanwhile.
RESTARTED = """
import os, signal, time
from cli import cluster, members
cluster.connect(cluster.find_cluster())
import ray

@ray.remote(num_cpus=0, max_restarts=1)
class Controller:
    def __init__(self):
        if ray.get_runtime_context().was_current_actor_reconstructed:
            time.sleep(60)
    def pid(self):
        return os.getpid()

controller = Controller.options(name="controller:again").remote()
os.kill(ray.get(controller.pid.remote(), timeout=60), signal.SIGKILL)
while {actor.state for actor in members.actors() if actor.role == "controller"} != {"RESTARTING"}:
    time.sleep(0.01)
print(members.living_controllers())
ray.kill(controller)
while members.living_controllers():
    time.sleep(0.01)
"""


def test_a_run_whose_controller_starts_again_is_going(cluster_root: Path) -> None:
    assert "{'controller:again'}" in drive(cluster_root, RESTARTED)


def test_logs_are_followed_until_the_actor_ends(cluster_root: Path) -> None:
    drive(cluster_root, TALKER, "first")
    follow = subprocess.Popen(
        [sys.executable, "-m", "cli.app", "logs", "rollout", "--follow"],
        cwd=cluster_root,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follow.stdout and follow.stdout.readline() == "first\n"
    drive(cluster_root, TALKER, "second")
    assert follow.stdout.readline() == "second\n" and follow.poll() is None
    drive(cluster_root, TALKER, "last")
    assert follow.communicate(timeout=60)[0].splitlines()[:1] == ["last"] and follow.returncode == 0


def test_down_takes_everything_and_nothing_else(cluster_root: Path, folder: Path, stranger: int) -> None:
    other = {process.pid for process in cluster_processes(record_of(cluster_root).cluster_id)}
    assert run_cli("up", cwd=folder).returncode == 0
    record = record_of(folder)
    processes = [process.pid for process in cluster_processes(record.cluster_id)]
    # Orphans that a worker left behind, with another parent: one ignores polite requests, one has written its title
    # over its environment, as Ray's workers do. A reader of a log is none.
    waits = "import time; time.sleep(600)"
    stubborn = f"import signal; signal.signal(15, signal.SIG_IGN); {waits}"
    titled = f"from ray._raylet import setproctitle; setproctitle('ray::Titled'); {waits}"
    with open(f"{record.temp_dir}/orphan.log", "w", encoding="utf-8") as log:
        orphan, unmarked = (
            subprocess.Popen(
                [sys.executable, "-c", program],
                env={**os.environ, MARK: record.cluster_id},
                stdout=log,
                start_new_session=True,
            )
            for program in (stubborn, titled)
        )
    reader = subprocess.Popen(["sleep", "600"], stdin=open(log.name, encoding="utf-8"))  # noqa: SIM115
    while MARK in psutil.Process(unmarked.pid).environ():
        time.sleep(0.1)
    # Who was connected and has left is none of it either, such as a view.
    leave = "from cli import cluster; cluster.connect(cluster.find_cluster(), to_work=False); cluster.disconnect()"
    visitor = subprocess.Popen(
        [sys.executable, "-c", f"{leave}; print('left', flush=True); {waits}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert visitor.stdout and visitor.stdout.readline() == "left\n"
    down = run_cli("down", "--json", cwd=folder)
    assert down.returncode == 0, down.stderr
    assert set(processes) | {orphan.pid, unmarked.pid} <= set(last_json(down)["ended"])
    assert orphan.wait(timeout=5) == -signal.SIGKILL
    assert unmarked.wait(timeout=5) == -signal.SIGTERM
    assert reader.poll() is None
    assert visitor.poll() is None
    for process in (reader, visitor):
        process.kill()
        process.wait()
    assert gone(processes)
    assert cluster_processes(record.cluster_id) == []
    assert not Path(record.temp_dir).exists()
    assert [path.name for path in record.folder.iterdir()] == [".gitignore"]
    assert last_json(run_cli("down", "--json", cwd=folder)) == {"state": "none"}
    assert {process.pid for process in cluster_processes(record_of(cluster_root).cluster_id)} >= other


def test_a_stale_record_is_cleaned_and_the_cluster_started_anew(folder: Path) -> None:
    assert run_cli("up", cwd=folder).returncode == 0
    old = record_of(folder)
    assert end_processes(old.cluster_id, grace=1) == []
    refused = run_cli("status", cwd=folder)
    assert refused.returncode == 3 and "streamrec-dist up cluster.yaml" in refused.stderr
    again = run_cli("up", "--json", cwd=folder)
    assert again.returncode == 0 and last_json(again)["state"] == "started"
    assert not Path(old.temp_dir).exists()
    assert run_cli("down", cwd=folder).returncode == 0


def test_attaching_leaves_the_other_cluster_up(cluster_root: Path, folder: Path) -> None:
    record = record_of(cluster_root)
    (folder / "cluster.yaml").write_text(f"cluster: {{address: '{record.address}'}}\n", encoding="utf-8")
    access = {"RAY_AUTH_TOKEN_PATH": str(record.token_path), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    up = run_cli("up", "--json", cwd=folder, variables=access)
    assert up.returncode == 0 and last_json(up)["state"] == "attached", up.stderr
    assert last_json(run_cli("status", "--json", cwd=folder, variables=access))["nodes"] == 1
    assert run_cli("down", cwd=folder, variables=access).returncode == 0
    assert cluster_processes(record.cluster_id)
    assert last_json(run_cli("status", "--json", cwd=cluster_root))["nodes"] == 1


def test_a_ray_that_cannot_start_leaves_nothing(folder: Path) -> None:
    # Ray's processes end at once on a setting they cannot read.
    broken = {"RAY_gcs_server_request_timeout_seconds": "not a number"}
    folders = set(Path("/tmp").glob("streamrec-*"))
    refused = run_cli("up", cwd=folder, variables=broken)
    assert set(Path("/tmp").glob("streamrec-*")) <= folders
    token = str(folder / ".streamrec" / "token")
    assert [process for process in psutil.process_iter() if told_of(process) == token] == []
    assert refused.returncode == 3 and "the end of its log" in refused.stderr
    assert [path.name for path in (folder / ".streamrec").iterdir()] == [".gitignore"]
