"""Faults at random times while a run trains: what it survives, and how long until it trains again.

    python benchmarks/chaos.py --minutes 20 --seed 1

A local cluster is brought up in a folder of its own, with a second node beside that of the head, and runs of demo
size train, one after the other, each from the same stages 0 to 2. All are deterministic, so that the audit is the
strongest there is: whatever was killed, the weights must have the bits of a run that nothing happened to, so that no
group is lost or trained twice. A fault is survived when three training steps are reported in time after it, and it
takes until the third of them: two may have been under way when it happened.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from cluster_runs import ROOT, options
from measure import machine

from cli.processes import MARK, cluster_processes
from cli.ray_head import ray_variables
from cli.record import ClusterRecord, read_record
from streamrec_dist.errors import StreamRecError
from streamrec_dist.events import EventReader
from streamrec_dist.rundir import RunDir

#: Where the first stages are only as long as they have to be.
QUICK = [
    "deterministic=true",
    "stages.tokenize.epochs=20",
    "stages.retrieve.epochs=1",
    "stages.pretrain.epochs=1",
    "stages.sft.rounds=1",
    "stages.sft.calibration=10",
    "stages.rl.rows=all",
    "stages.rl.checkpoint_every=5",
]
#: Seconds from a fault to the next step, at most.
DEADLINE_S = 120.0
QUIET_S = (2.0, 6.0)
#: The step after a fault that cannot have been under way when it happened.
LATER = 3


#: What starts a run.
START = """
from cli import cluster
record = cluster.find_cluster()
cluster.connect(record)
from cli.launch import start_run
from faulty import FaultyController
from streamrec_dist.rundir import RunDir, run_exists
if not run_exists(record.runs, "{name}"):
    base = RunDir.open(record.runs / "base")
    base.branch("{name}", base.config(), base.finished_stages())
config = RunDir.open(record.runs / "{name}").config()
start_run(config, record.runs, "{name}", ("rl",), FaultyController)
"""


#: What starts a second node. `ray start` refuses to for a cluster on loopback, which it takes for one of a laptop.
NODE = """
from ray._private.node import Node
from ray._private.parameter import RayParams
parameters = RayParams(
    gcs_address="{address}", node_ip_address="127.0.0.1", num_cpus=1, object_store_memory=2**28,
    include_log_monitor=False, dashboard_agent_listen_port=0,
)
Node(parameters, head=False, shutdown_at_exit=False, spawn_reaper=False)
"""


#: What fills the object store.
FILL = """
import time
import numpy as np
import ray
ray.init(address="{address}", log_to_driver=False, logging_level="ERROR")
count = int(ray.cluster_resources()["object_store_memory"] * 1.3 / 2**26)
held = [ray.put(np.random.default_rng(number).random(2**23)) for number in range(count)]
time.sleep(3)
print(count * 64, "MiB")
"""


class Lost(Exception):
    """Something that must be survived was not."""


class Project:
    """A folder with a cluster.yaml, its cluster, and its runs."""

    def __init__(self, folder: Path, config: Path):
        self.folder = folder
        #: When the last fault was made.
        self.harmed = 0.0
        #: Marks and private folders of the clusters that there were.
        self.clusters: dict[str, str] = {}
        shutil.copy(config, folder / "cluster.yaml")

    def cli(self, *words: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        return self._python("-m", "cli.app", *words, check=check, timeout=timeout)

    def start(self, name: str) -> None:
        """Begin a run with the stages of `base`, or go on with it, by a controller that can be harmed."""
        self._python("-c", START.format(name=name))

    def _python(
        self,
        *words: str,
        check: bool = True,
        timeout: float = 300,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        given = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), *([given] if given else [])])
        environment = {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", "RAY_worker_niceness": "0"}
        environment |= variables or {}
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise Lost(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        return done

    @property
    def record(self) -> ClusterRecord:
        record = read_record(self.folder)
        assert record is not None
        return record

    def run(self, name: str) -> RunDir:
        return RunDir.open(self.folder / "runs" / name)

    def processes(self, title: str) -> list[psutil.Process]:
        """Living processes of the cluster whose command begins so: `ray::RolloutActor`, or a path's end."""
        found = []
        for process in cluster_processes(self.record.cluster_id):
            try:
                words = process.cmdline()
                if words and (words[0].startswith(title) or words[0].endswith(title)):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return sorted(found, key=lambda process: process.pid)

    def up(self) -> None:
        """A cluster with a second node on this machine, of one core."""
        self.cli("up", "cluster.yaml")
        self.clusters[self.record.cluster_id] = self.record.temp_dir
        self.add_node()

    def left_over(self) -> list[int]:
        """Processes of any of the clusters."""
        found = [process for one in self.clusters.items() for process in cluster_processes(*one)]
        return sorted({process.pid for process in found})

    def add_node(self) -> None:
        self.python(NODE.format(address=self.record.address))

    def python(self, program: str) -> str:
        """What a Python program that may talk to the cluster prints."""
        record = self.record
        variables = {**ray_variables(record.token_path, record.host), MARK: record.cluster_id}
        return self._python("-c", program, variables=variables).stdout


def steps_kept(run: RunDir) -> list[int]:
    """The numbers of the training steps that are in the weights, in order. Raises Lost where one was made again
    although nothing had to be."""
    # A store that dies writes what it was at once more, after what came next.
    events = {event.to_json(): event for event in EventReader(run.events_path).new()}
    kept: list[int] = []
    again = False
    for event in sorted(events.values(), key=lambda event: event.t):
        again |= event.kind == "run" or (event.kind == "warning" and "start" in event.message)
        if event.kind == "step" and event.stage == "rl":
            if kept and event.step <= kept[-1] and not again:
                raise Lost(f"{run.name}: step {event.step} was made again without a reason")
            # What is made again takes the place of what was made of it and after it.
            kept, again = [*(one for one in kept if one < event.step), event.step], False
    return kept


def digest(run: RunDir) -> str:
    """Of the best weights of stage 3, and of the weights and the optimizer's state at its end."""
    end = run.load_checkpoint("rl", run.checkpoint_steps("rl")[-1]).arrays
    # Which evaluations were still going on when it was written is no part of what was learnt.
    kept = {name: array for name, array in end.items() if not name.startswith(("unjudged.", "best."))}
    body = hashlib.sha256()
    for arrays in (run.load_weights("rl"), kept):
        for name in sorted(arrays):
            body.update(name.encode() + arrays[name].tobytes())
    return body.hexdigest()


# faults: each does its harm and returns what it did


Fault = Callable[[Project, RunDir, random.Random], str]


def _signal(title: str, sign: signal.Signals) -> Fault:
    def harm(project: Project, run: RunDir, rng: random.Random) -> str:
        found = project.processes(f"ray::{title}")
        if not found:
            return ""
        process = rng.choice(found)
        os.kill(process.pid, sign)
        project.harmed = time.time()
        return f"{sign.name} to {title} {process.pid}"

    return harm


def _node(project: Project, run: RunDir, rng: random.Random) -> str:
    """The second node goes, raylet and workers; another comes a little later."""
    raylets = project.processes("raylet")
    if len(raylets) < 2:
        project.add_node()
        return ""
    second = max(raylets, key=lambda process: process.create_time())
    family = [second, *second.children(recursive=True)]
    for process in family:
        process.kill()
    project.harmed = time.time()
    return f"node of raylet {second.pid}, {len(family)} processes"


def _newest_checkpoint(project: Project, run: RunDir, rng: random.Random) -> str:
    """The newest checkpoint is damaged, and a learner dies, so that it is wanted."""
    steps = run.checkpoint_steps("rl")
    # A run that has done its last step needs its checkpoint no more, and the audit does.
    if len(steps) < 2 or steps[-1] == run.config().stages.rl.steps:
        return ""
    path = run.path / "checkpoints" / "rl" / f"step-{steps[-1]:08d}" / "arrays.safetensors"
    content = bytearray(path.read_bytes())
    del content[rng.randrange(len(content)) :]
    path.write_bytes(content)
    return f"checkpoint {steps[-1]} cut to {len(content)} bytes; " + FAULTS["kill learner"](project, run, rng)


def _everything(project: Project, run: RunDir, rng: random.Random) -> str:
    """Every process of the cluster at once; then it is brought up, and the run resumed."""
    for process in cluster_processes(project.record.cluster_id, project.record.temp_dir):
        process.kill()
    project.harmed = time.time()
    project.up()
    project.start(run.name)
    return "all processes of the cluster"


def _publication(how: str) -> Fault:
    def harm(project: Project, run: RunDir, rng: random.Random) -> str:
        (run.path / f"{how}.fault").touch()
        return f"publication: {how}"

    return harm


def _store_full(project: Project, run: RunDir, rng: random.Random) -> str:
    """A task holds more than the object store has room for, for some seconds."""
    put = project.python(FILL.format(address=project.record.address)).strip()
    project.harmed = time.time()
    return f"object store: {put} put"


FAULTS: dict[str, Fault] = {
    "kill rollout actor": _signal("RolloutActor", signal.SIGKILL),
    "kill reward worker": _signal("RewardActor", signal.SIGKILL),
    "kill evaluate actor": _signal("EvaluateActor", signal.SIGKILL),
    "kill learner": _signal("LearnerWorker", signal.SIGKILL),
    "kill store": _signal("StoreActor", signal.SIGKILL),
    "kill controller": _signal("FaultyController", signal.SIGKILL),
    "freeze rollout actor": _signal("RolloutActor", signal.SIGSTOP),
    "freeze reward worker": _signal("RewardActor", signal.SIGSTOP),
    "freeze learner": _signal("LearnerWorker", signal.SIGSTOP),
    "lose node": _node,
    "damage checkpoint": _newest_checkpoint,
    "kill everything": _everything,
    "drop publication": _publication("drop"),
    "delay publication": _publication("delay"),
    "fill object store": _store_full,
}


class Chaos:
    """Runs that are harmed, and the record of what happened."""

    def __init__(self, project: Project, steps: int, seed: int, base: Path | None):
        self.project, self.steps, self.rng, self.base = project, steps, random.Random(seed), base
        self.record: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []

    def prepare(self) -> None:
        """The stages before, and the run that nothing happens to."""
        self.project.up()
        wanted = [*QUICK, f"stages.rl.steps={self.steps}"]
        settings = options(wanted)
        if self.base:
            shutil.copytree(self.base, self.project.folder / "runs" / "given", copy_function=shutil.copy)
            # Its ids are as they are.
            settings = options([one for one in wanted if not one.startswith("stages.tokenize.")])
            self.project.cli("train", "--stage", "retrieve", "--run", "base", "--from", "given", *settings)
            settings = ["--resume"]
        self.project.cli("train", "--stage", "sft", "--run", "base", *settings, timeout=1800)
        self.project.cli("train", "--stage", "rl", "--run", "whole", "--from", "base", timeout=1800)
        self.wanted = digest(self.project.run("whole"))

    def harm_runs(self, until: float, faults: list[str]) -> None:
        """One run after the other, until the clock says `until`."""
        while time.monotonic() < until:
            name = f"run-{len(self.runs)}"
            self.project.start(name)
            self._harm(self.project.run(name), until, faults)
            self._audit(self.project.run(name))

    def _harm(self, run: RunDir, until: float, faults: list[str]) -> None:
        self.later_step(run, time.time(), 1)
        while not self._ended(run) and time.monotonic() < until:
            time.sleep(self.rng.uniform(*QUIET_S))
            if self._ended(run):
                return
            name = self.rng.choice(faults)
            self.project.harmed = time.time()
            what = FAULTS[name](self.project, run, self.rng)
            if not what:
                continue
            entry: dict[str, Any] = {"fault": name, "what": what, "run": run.name, "survived": False}
            self.record.append(entry)
            seconds = self.later_step(run, self.project.harmed, LATER)
            entry |= {"survived": True, "seconds": seconds}
            told = f"{seconds:.1f} s" if seconds is not None else "the run had ended"
            print(f"{name}: {what}: {told}", file=sys.stderr, flush=True)

    def later_step(self, run: RunDir, began: float, count: int) -> float | None:
        """Seconds from `began` until `count` steps were made; None when the run has done its last. Raises Lost."""
        give_up = time.monotonic() + DEADLINE_S
        while time.monotonic() < give_up:
            events = EventReader(run.events_path).new()
            state = self._ended(run)
            later = sorted({event.t for event in events if event.kind == "step" and event.t > began})
            if len(later) >= count:
                return later[count - 1] - began
            if state == "done":
                return None
            if state:
                raise Lost(f"{run.name} {state}: {events[-1].message}")
            time.sleep(0.05)
        raise Lost(f"{run.name}: no {count} steps within {DEADLINE_S:.0f} s")

    def _ended(self, run: RunDir) -> str:
        """The state that the newest life of a run ended in, if it has."""
        runs = [event for event in EventReader(run.events_path).new() if event.kind == "run"]
        return runs[-1].state if runs and runs[-1].state != "started" else ""

    def _audit(self, run: RunDir) -> None:
        """Wait for the end; every step is there once, and the weights have the bits of the run left alone."""
        give_up = time.monotonic() + 1800
        while not self._ended(run):
            if time.monotonic() > give_up:
                raise Lost(f"{run.name} does not end")
            time.sleep(0.5)
        ended = self._ended(run)
        if ended != "done":
            raise Lost(f"{run.name} {ended}: {EventReader(run.events_path).new()[-1].message}")
        same = digest(run) == self.wanted
        whole = steps_kept(run) == list(range(1, self.steps + 1))
        resumed = sum(
            entry["fault"] == "kill everything" for entry in self.record if entry["run"] == run.name
        )
        self.runs.append({"run": run.name, "whole": whole, "same_bits": same, "resumed": resumed})
        print(f"{run.name}: {self.runs[-1]}", file=sys.stderr, flush=True)
        # That bits are the same is promised for CPUs.
        if not whole or not (same or torch.cuda.is_available()):
            raise Lost(f"{run.name}: steps are missing, or the weights have other bits")

    def summary(self) -> dict[str, Any]:
        recovered: dict[str, list[float]] = {}
        for entry in self.record:
            if entry.get("seconds") is not None:
                recovered.setdefault(entry["fault"], []).append(entry["seconds"])
        return {
            "faults": len(self.record),
            "survived": sum(entry["survived"] for entry in self.record),
            "by_fault": {
                name: {
                    "count": len(times),
                    "median_s": round(statistics.median(times), 1),
                    "max_s": round(max(times), 1),
                }
                for name, times in sorted(recovered.items())
            },
            "runs": len(self.runs),
            "runs_whole": sum(run["whole"] for run in self.runs),
            "runs_with_the_same_bits": sum(run["same_bits"] for run in self.runs),
            "resumed_to_the_same_bits": sum(run["resumed"] for run in self.runs if run["same_bits"]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long faults are made")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=150, help="training steps of a run")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="FAULT")
    parser.add_argument("--config", type=Path, default=ROOT / "cluster.yaml")
    parser.add_argument(
        "--from", dest="base", type=Path, help="a run whose items have ids; else they get them"
    )
    parser.add_argument("--out", type=Path, help="a JSON list, to which the result is added")
    arguments = parser.parse_args()
    # The cluster is taken down all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    project = Project(folder, arguments.config)
    chaos = Chaos(project, arguments.steps, arguments.seed, arguments.base)
    lost = ""
    try:
        chaos.prepare()
        chaos.harm_runs(time.monotonic() + 60 * arguments.minutes, arguments.faults)
    except (Lost, StreamRecError, subprocess.TimeoutExpired) as error:
        lost = str(error)
    finally:
        project.cli("down", check=False)
    left = len(project.left_over())
    found = {
        "seed": arguments.seed,
        "minutes": arguments.minutes,
        **chaos.summary(),
        "lost": lost,
        "left_over": left,
        "hardware": machine(),
        "command": f"python benchmarks/chaos.py --minutes {arguments.minutes:g} --seed {arguments.seed} "
        f"--steps {arguments.steps}",
    }
    print(json.dumps(found, indent=1))
    if arguments.out:
        known = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
        arguments.out.write_text(json.dumps([*known, found], indent=1) + "\n")
    if lost or left:
        sys.exit(f"not survived: {lost or f'{left} processes are left'}; the runs are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
