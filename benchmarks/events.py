"""What events cost the training loop, and how long a run of millions of them takes to open.

    python benchmarks/events.py --json

`loop`: the loop of stage 3 (its pools, buffer, publisher and gang, with the fake workers of benchmarks/runtime.py)
with `events`, spans and the telling of processes, and `traced`, by turns with none of it; medians. A step of it takes
100 ms, the shortest that was seen on a GPU. `in_loop_ms` of a step the loop's thread works, on a core, for what is
told of it, and `telling` is the part of all time in which the thread that tells of processes does, for which the loop
may have to wait: `share` is both. `longer` is by how much the steps took longer, and `free_ms` by how much do those
of workers that need no time, where work for events in any process makes a step longer.

`runs`: a run of so many events, of realistic kinds and sizes, whose summary its store has kept. Each command runs in
a fresh process: `watch` until its first screen stands in a terminal, `report` until it is written, both with the kept
summary and, `_alone`, by the events alone; `store` is what the process that writes a run needs before its first one,
once it is up; `parquet`, of the smaller runs, the export of all events. `cpu_s` of the seconds it was on a core,
which other work on the machine changes little; peaks are the resident memory of the process.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import os
import pty
import random
import re
import select
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Before Ray is imported, which reads its environment then.
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}

import psutil
from measure import machine

from streamrec_dist.config import Config
from streamrec_dist.events import SCHEMA, WORKER_FIELDS, Event
from streamrec_dist.rundir import RunDir
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.types import REWARDS

REPO = Path(__file__).parents[1]
STEP_S = 0.1
RUN = "long"
#: Variants of the metrics of a step, lines that are written at a time, and the events that go through a store.
VARIANTS, LINES, STORED = 997, 20_000, 20_000
#: Bytes that a run of a million events needs, at most, and what is to be left of a disk.
MILLION, LEFT = 1_500_000_000, 5_000_000_000
FIRST_SCREEN_S, POLL_S = 600.0, 0.05
#: Runs of so many events are exported too, which takes as long as they have events.
EXPORTED = 1_000_000


# what events cost the loop


def loop(repeats: int, steps: int) -> dict[str, Any]:
    """What a step takes by what is told of it, medians of turns, and what telling comes to."""
    import ray
    from event_loops import KINDS, Taken, Work, take_steps

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    works = {"paced": Work(train_s=STEP_S), "free": Work()}
    found: dict[tuple[str, str], list[Taken]] = {(how, kind): [] for how in works for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats):
            for (how, kind), taken in found.items():
                run = RunDir.create(Path(folder), f"{how}-{kind}-{turn}", Config())
                taken.append(take_steps(kind, run, works[how], steps))
    ray.shutdown()

    def median(how: str, kind: str, name: str = "step_s") -> float:
        return statistics.median(getattr(one, name) for one in found[how, kind])

    told: dict[str, Any] = {}
    for kind in KINDS[1:]:
        inside, telling = (median("paced", kind, name) for name in ("in_loop_s", "telling"))
        told[kind] = {
            "in_loop_ms": round(1000 * inside, 3),
            "telling": round(telling, 5),
            "share": round(inside / median("paced", kind) + telling, 4),
            "longer": round(median("paced", kind) / median("paced", "none") - 1, 4),
            "free_ms": round(1000 * (median("free", kind) - median("free", "none")), 3),
        }
    steps_ms = {how: {kind: round(1000 * median(how, kind), 2) for kind in KINDS} for how in works}
    return {"turns": repeats, "steps": steps, "steps_ms": steps_ms, **told}


# a run of millions of events


#: The metrics of a step: numbers by name, and those that are counts or lists.
ROW_STEP = ("thinking", "direct", "loss", "grad_norm", "lr", "seconds", "rows_per_s")
RL_STEP = (
    *(f"{kind}/{name}" for kind in ("reward", "spread", "share") for name in (*REWARDS, "total")),
    *(
        f"time/{part}"
        for part in ("adopt", "generate", "score", "prepare", "forward", "backward", "optimise")
    ),
    *(f"time/{part}" for part in ("publish", "wait_rollout", "wait_reward", "wait_learner")),
    *(
        "kl",
        "ratio",
        "clip_share",
        "entropy",
        "policy_gap",
        "ppo_kl_at_equal_version",
        "loss",
        "grad_norm",
        "lr",
    ),
    *("seconds", "raw_likelihood", "staleness", "adopted_s", "learner_idle", "rollout_idle"),
    *("groups_per_s", "rollouts_per_s", "tokens_per_s"),
)
RL_COUNTS = {"version": 7, "buffered": 64, "no_signal": 3, "no_step": 0, "staleness_counts": [5, 123]}
EVALUATED = {"recall@5": 0.1, "recall@10": 0.2, "ndcg@5": 0.1, "ndcg@10": 0.2, "users": 1000}


def bodies(names: Sequence[str], counts: dict[str, Any]) -> list[dict[str, Any]]:
    """Metrics of steps."""
    rng = random.Random(0)
    return [{name: rng.random() for name in names} | counts for _ in range(VARIANTS)]


def lines(events: int, began: float) -> Iterator[str]:
    """Three steps of stage 1 to each of stage 3, with evaluations and processes now and then."""
    row = [json.dumps(body) for body in bodies(ROW_STEP, {"epoch": 3})]
    rl = [json.dumps(body) for body in bodies(RL_STEP, RL_COUNTS)]
    processes = [dict.fromkeys(WORKER_FIELDS, 1) | {"role": "rollout", "number": n} for n in range(8)]
    told, evaluated = json.dumps({"processes": processes}), json.dumps(EVALUATED)
    yield Event("run", state="started", metrics={"stages": ["pretrain", "rl"]}, t=began).to_json()
    first = events * 3 // 4
    for number in range(1, events):
        if number <= first:
            stage, step, total, metrics = "pretrain", number, first, row[number % VARIANTS]
        else:
            stage, step, total, metrics = "rl", number - first, events - first, rl[number % VARIANTS]
        kind = "step"
        if number % 500 == 0:
            kind, metrics = ("eval", evaluated) if number % 1000 == 0 else ("workers", told)
        head = f'{{"schema": {SCHEMA}, "kind": "{kind}", "stage": "{stage}", "step": {step}, "total": {total}'
        yield f'{head}, "metrics": {metrics}, "t": {began + number / 100:.3f}}}'


def make_run(folder: Path, events: int) -> RunDir:
    """A run whose last events came through its store, as all of them do in a real one; that keeps the summary."""
    (folder / "cluster.yaml").write_text("seed: 1\n", encoding="utf-8")
    run = RunDir.create(folder / "runs", RUN, Config())
    stored = min(STORED, events // 2)
    bulk = lines(events - stored, time.time() - events / 100)
    with run.events_path.open("w", encoding="utf-8") as file:
        while part := list(itertools.islice(bulk, LINES)):
            file.write("\n".join(part) + "\n")
    store, metrics = RunStore(run.path), bodies(RL_STEP, RL_COUNTS)
    first = store.summary.stages["rl"].step + 1
    for step in range(first, first + stored):
        if step == first + stored - 1:
            store.summary_due = 0.0
        store.emit(Event("step", "rl", step, first + stored, metrics=metrics[step % VARIANTS]))
    return run


def measure_run(folder: Path, events: int) -> dict[str, Any]:
    """What the commands need for a run of so many events."""
    run = make_run(folder, events)
    found: dict[str, Any] = {
        "events": events,
        "events_bytes": run.events_path.stat().st_size,
        "summary_bytes": run.summary_path.stat().st_size,
    }
    commands: dict[str, Callable[[], dict[str, float]]] = {
        "watch": lambda: first_screen(folder),
        "report": lambda: timed(["-m", "cli.app", "report", RUN], folder),
        "store": lambda: timed(["-c", STORE], folder, says=True),
    }
    found |= {name: measured() for name, measured in commands.items()}
    if events <= EXPORTED:
        found["parquet"] = timed(["-m", "cli.app", "export", RUN, "--parquet"], folder)
        found["parquet"]["bytes"] = (run.path / "events.parquet").stat().st_size
    run.summary_path.rename(folder / "kept")
    for name, measured in commands.items():
        found[f"{name}_alone"] = measured()
        run.summary_path.unlink(missing_ok=True)
    return found


#: What a store reads before it can write an event, and what that takes.
STORE = f"""
import json, time
from pathlib import Path
from streamrec_dist.rundir import RunDir
from streamrec_dist.summary_file import summarised
began = time.perf_counter(), time.process_time()
summarised(RunDir(Path("runs/{RUN}")))
took = time.perf_counter() - began[0], time.process_time() - began[1]
print(json.dumps(dict(zip(("seconds", "cpu_s"), (round(one, 2) for one in took)))))
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO), "TERM": "xterm-256color"}


def timed(arguments: Sequence[str], folder: Path, says: bool = False) -> dict[str, float]:
    """Seconds, those of them on a core, and peak memory of a Python process that works in a folder.

    One that `says` them on its last line knows better.
    """
    began, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment(), stdout=said, stderr=said
        )
        while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
            peak = max(peak, peak_mib(child.pid))
            time.sleep(POLL_S)
        seconds, used = time.perf_counter() - began, ended[2]
        child.returncode = os.waitstatus_to_exitcode(ended[1])
        said.seek(0)
        words = said.read().decode()
    if child.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {child.returncode}:\n{words}")
    own = {"seconds": round(seconds, 2), "cpu_s": round(used.ru_utime + used.ru_stime, 2)}
    return (json.loads(words.splitlines()[-1]) if says else own) | {"peak_mib": peak}


def first_screen(folder: Path) -> dict[str, float]:
    """Seconds until `watch` has drawn the run in a terminal of its own, on a core until then, and its peak memory."""
    terminal, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "cli.app", "watch", RUN],
        cwd=folder,
        env=environment(),
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
    )
    os.close(inner)
    try:
        screen, seconds = b"", 0.0
        while child.poll() is None and time.perf_counter() - began < FIRST_SCREEN_S:
            if select.select([terminal], [], [], POLL_S)[0]:
                screen += os.read(terminal, 2**16)
                seconds = time.perf_counter() - began
            elif RUN.encode() in screen:
                # Nothing more comes for now: the picture stands.
                cpu_s = sum(psutil.Process(child.pid).cpu_times()[:2])
                return {
                    "seconds": round(seconds, 2),
                    "cpu_s": round(cpu_s, 2),
                    "peak_mib": peak_mib(child.pid),
                }
        raise SystemExit(f"watch has drawn nothing:\n{screen.decode(errors='replace')}")
    finally:
        child.kill()
        child.wait()
        os.close(terminal)


def peak_mib(pid: int) -> int:
    """The most resident memory that a process ever had; 0 where it has ended. (rusage counts what its parent had.)"""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) // 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(
        "--events", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000], help="of each run"
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns of the loop; 0 leaves it out")
    parser.add_argument("--steps", type=int, default=200, help="of a turn")
    parser.add_argument(
        "--folder", type=Path, help="where the runs are made for a while; default: the system's"
    )
    parser.add_argument("--out", type=Path, help="also write the object here")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    if arguments.repeats:
        found["loop"] = loop(arguments.repeats, arguments.steps)
    found["runs"] = []
    for events in arguments.events:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            room = shutil.disk_usage(folder).free
            wanted = events / 1e6 * MILLION + LEFT
            if room < wanted:
                raise SystemExit(f"{events} events may need {wanted:.0e} bytes, and {room:.0e} are free")
            found["runs"].append(measure_run(Path(folder), events))
    found |= {"hardware": machine(), "command": "python benchmarks/events.py --json"}
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
