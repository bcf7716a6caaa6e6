"""What the whole system does on one machine, from a run whose items have ids: every stage, then stage 3 by settings.

    python benchmarks/system.py --from runs/NAME --steps 100 --out FILE

All goes through the commands that a user types, in a folder and a cluster of its own; the model has the paper's size.
Stages 1 and 2 are as short as they can be: what is measured is what a second brings, not what is learnt. Of the steps
of stage 3 the second half counts. Of GPUs the share of the time in
which one was busy, and the memory of all processes, are those that nvidia-smi shows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos import FAULTS, LATER, Chaos, Lost, Project
from cluster_runs import options
from measure import machine

from streamrec_dist.events import Event, EventReader

#: The base of all runs. Of the rows of stages 1 and 2 few are needed to make them learn something.
BASE = [
    *("model.d_model=256", "model.layers=4", "model.d_head=64", "model.d_ff=1024", "model.precision=auto"),
    *("deterministic=false", "learners.world_size=1", "learners.transport=store", "learners.compile=false"),
    *("stages.retrieve.epochs=1", "stages.retrieve.folds=2", "stages.pretrain.epochs=1"),
    *("stages.sft.rounds=1", "stages.sft.epochs=1", "stages.sft.calibration=50"),
    *("stages.rl.rows=all", "stages.rl.prompts=64", "stages.rl.group_size=16", "stages.rl.max_staleness=1"),
    *(f"stages.{stage}.eval_users=1000" for stage in ("retrieve", "pretrain", "sft", "rl")),
]
SETTINGS = {
    "as it is": [],
    "max_staleness 0": ["stages.rl.max_staleness=0"],
    "1 rollout actor": ["actors.rollout.replicas=1"],
    "4 rollout actors": ["actors.rollout.replicas=4"],
    "256 prompts": ["stages.rl.prompts=256"],
    "compiled": ["learners.compile=true"],
    "collective": ["learners.transport=collective"],
    "2 learner ranks": ["learners.world_size=2"],
}
#: Of the steps of stage 3.
MEASURES = ("rollouts_per_s", "tokens_per_s", "learner_idle", "rollout_idle", "staleness")
STAGES = ("retrieve", "pretrain", "sft")
#: Faults whose end is waited for.
RECOVERED = ("kill rollout actor", "kill reward worker", "kill learner", "kill store")


def measured(steps: Sequence[Event]) -> dict[str, float]:
    """Over the whole time of some steps of stage 3: one waits for what the next two then have at once."""
    seconds = [event.metrics["seconds"] for event in steps]
    found = {"seconds": round(sum(seconds) / len(steps), 4)}
    for name in MEASURES:
        total = sum(event.metrics[name] * took for event, took in zip(steps, seconds, strict=True))
        found[name] = round(total / sum(seconds), 3)
    return found


class Usage:
    """What the GPUs of this machine do while a block runs; nothing where there is none."""

    def __init__(self) -> None:
        self.busy: list[float] = []
        self.memory: list[float] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        over = threading.Event()
        watcher = threading.Thread(target=self._look, args=(over,))
        if shutil.which("nvidia-smi"):
            watcher.start()
        try:
            yield
        finally:
            over.set()
            if watcher.ident:
                watcher.join()

    def _look(self, over: threading.Event) -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
        while not over.wait(0.5):
            rows = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
            pairs = [[float(word) for word in row.split(",")] for row in rows]
            self.busy.append(statistics.mean(busy for busy, _ in pairs))
            self.memory.append(sum(memory for _, memory in pairs))

    def summary(self) -> dict[str, float]:
        if not self.busy:
            return {}
        return {"gpu_busy": round(statistics.mean(self.busy), 1), "gpu_memory_mib": max(self.memory)}


class System:
    """The runs of a project, trained with `settings`."""

    def __init__(self, project: Project, steps: int, settings: Sequence[str]):
        self.project, self.steps, self.settings = project, steps, settings

    def train(self, stage: str, name: str, *words: str) -> dict[str, Any]:
        """Train a run; the seconds of the command, and what the GPUs did."""
        usage, began = Usage(), time.perf_counter()
        with usage.watch():
            self.project.cli("train", "--stage", stage, "--run", name, *words, timeout=600)
        return {"command_s": round(time.perf_counter() - began, 1), **usage.summary()}

    def events(self, name: str) -> list[Event]:
        return EventReader(self.project.run(name).events_path).new()

    def stages(self, imported: str) -> dict[str, Any]:
        """Stages retrieve to sft of the run `base`."""
        first = "pretrain" if "model.evidence=0" in self.settings else "retrieve"
        self.train(first, "base", "--from", imported, *options(self.settings))
        found: dict[str, Any] = self.train("sft", "base", "--resume")
        for event in self.events("base"):
            if event.kind == "stage" and event.state == "done" and event.stage in STAGES:
                steps = [
                    one for one in self.events("base") if one.kind == "step" and one.stage == event.stage
                ]
                seconds = [one.metrics["seconds"] for one in steps if "seconds" in one.metrics]
                found[event.stage] = {
                    "seconds": round(event.metrics["seconds"], 1),
                    "steps": len(steps),
                    "step_s": round(statistics.median(seconds), 4) if seconds else None,
                }
        return found

    def rl(self, name: str, settings: Sequence[str]) -> dict[str, Any]:
        """Stage 3 with other settings."""
        run = "rl-" + name.replace(" ", "-")
        whole = [
            *self.settings,
            f"stages.rl.steps={self.steps}",
            f"stages.rl.eval_every={self.steps}",
            *settings,
        ]
        found: dict[str, Any] = self.train("rl", run, "--from", "base", *options(whole))
        steps = [event for event in self.events(run) if event.kind == "step"]
        later = [event for event in steps[len(steps) // 2 :] if "rollouts_per_s" in event.metrics]
        return found | measured(later)

    def recovery(self) -> dict[str, Any]:
        """Seconds from the death of a process to the third step after it."""
        endless = [*self.settings, "stages.rl.steps=100000", "stages.rl.eval_every=100000"]
        words = ("--stage", "rl", "--run", "recovery", "--from", "base", "--detach")
        self.project.cli("train", *words, *options(endless))
        run, chaos = self.project.run("recovery"), Chaos(self.project, self.steps, 1, None)
        chaos.later_step(run, time.time(), LATER)
        found: dict[str, Any] = {}
        for name in RECOVERED:
            time.sleep(3)
            FAULTS[name](self.project, run, chaos.rng)
            found[name] = round(chaos.later_step(run, self.project.harmed, LATER) or 0.0, 1)
        self.project.cli("stop", "recovery")
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="base", type=Path, required=True, help="a run whose items have ids")
    parser.add_argument("--steps", type=int, default=100, help="of stage 3")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for all runs")
    parser.add_argument(
        "--keep", type=Path, help="a folder for the run of stages 1 and 2, and the events of all"
    )
    parser.add_argument("--out", type=Path, help="also write the object here, after every part")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="system-"))
    project = Project(folder, arguments.base / "config.yaml")
    shutil.copytree(arguments.base, folder / "runs" / "imported", copy_function=shutil.copy)
    system = System(project, arguments.steps, [*BASE, *arguments.set])
    more = ["--set", *arguments.set] if arguments.set else []
    body: dict[str, Any] = {
        "hardware": machine(),
        "command": " ".join(["python benchmarks/system.py --from RUN --steps", str(arguments.steps), *more]),
    }

    def tell() -> None:
        if arguments.out:
            arguments.out.write_text(json.dumps(body, indent=1) + "\n")

    try:
        project.cli("up", "cluster.yaml")
        body["stages"] = system.stages("imported")
        tell()
        body["rl"] = {}
        for name in arguments.settings:
            try:
                body["rl"][name] = system.rl(name, SETTINGS[name])
            except Lost as lost:
                body["rl"][name] = {"failed": str(lost)}
            print(f"{name}: {body['rl'][name]}", file=sys.stderr, flush=True)
            tell()
        body["recovery_s"] = system.recovery()
        tell()
    finally:
        project.cli("down", check=False)
        if arguments.keep and (folder / "runs" / "base").is_dir():
            shutil.copytree(folder / "runs", arguments.keep)
    print(json.dumps(body, indent=1))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
