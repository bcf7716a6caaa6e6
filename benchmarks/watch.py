"""What the live view costs: CPU time of `watch` in a real terminal, and how long it takes to open a long run.

python benchmarks/watch.py            # 60 s of a run that gets 4 events a second, at 120x40
python benchmarks/watch.py --events 10000000 --folder BIG    # makes such a run there, and opens it
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import machine
from scenes import config, in_rl, processes, rl_step
from terminal import Terminal

from streamrec_dist.events import Event, EventLog
from streamrec_dist.rundir import RunDir
from streamrec_dist.summary import RunSummary
from streamrec_dist.summary_file import keep_summary

REPO = Path(__file__).parents[1]
WATCH = [sys.executable, "-m", "cli.app", "watch", "demo"]
VARIABLES = {"PYTHONPATH": str(REPO), "TERM": "screen-256color"}
#: Steps of the run before it is watched: all courses have their 1,024 buckets.
BEFORE = 3000
#: Steps between two events of the state of all processes, which come every five seconds.
TELL_EVERY = 20
#: A step of a run of very many, in the form in which it stands in the file.
SHORT_STEP = (
    '{"schema": 1, "kind": "step", "stage": "rl", "step": %d, "total": %d, "metrics": {"reward/total": %.4f, '
    '"kl": 0.01, "entropy": 3.1, "grad_norm": 0.5, "lr": 1e-05, "seconds": 1.5}, "t": %.3f}\n'
)
#: Events that have come since the summary was written, as happens every 15 s.
UNCOVERED = 1000
#: The view has started when it is not busy any more.
SETTLE_S = 3.0


def cpu_seconds(pid: int) -> float:
    """CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def now_event(event: Event, t: float) -> Event:
    return Event(**{**vars(event), "t": t})


def new_run(folder: Path) -> RunDir:
    (folder / "cluster.yaml").write_text("seed: 1\n", encoding="utf-8")
    return RunDir.create(folder / "runs", "demo", config())


def cost(seconds: float, rate: float, width: int, height: int) -> dict[str, Any]:
    """Share of a core that a view takes while events come."""
    with tempfile.TemporaryDirectory() as name:
        run = new_run(Path(name))
        log = EventLog(run.events_path)
        began = time.time()
        shift = began - max(event.t for event in in_rl(BEFORE, steps=2 * BEFORE))
        log.append([now_event(event, event.t + shift) for event in in_rl(BEFORE, steps=2 * BEFORE)])
        with Terminal(WATCH, width, height, cwd=Path(name), variables=VARIABLES) as terminal:
            terminal.wait_for(lambda text: "? help" in text)
            pid = terminal.pid
            time.sleep(SETTLE_S)
            used, started = cpu_seconds(pid), time.monotonic()
            for number in itertools.count(1):
                elapsed = time.monotonic() - started
                if elapsed >= seconds:
                    break
                step = BEFORE + number
                events = [rl_step(step, 2 * BEFORE)]
                if number % TELL_EVERY == 0:
                    events.append(processes(step, 0.0))
                log.append([now_event(event, time.time()) for event in events])
                time.sleep(max(0.0, started + number / rate - time.monotonic()))
            used = cpu_seconds(pid) - used
            newest = f" {step:,}/{2 * BEFORE:,} "
            assert newest in terminal.wait_for(lambda text: newest in text, seconds=5), terminal.text()
            memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "screen": f"{width}x{height}",
        "events_per_s": rate,
        "metrics": len(rl_step(1).metrics),
        "processes": len(processes(1, 0.0).metrics["processes"]),
        "seconds": round(elapsed, 1),
        "cpu_share": round(used / elapsed, 4),
        "memory_mib": round(memory / 2**20),
    }


def opening(folder: Path, events: int) -> dict[str, Any]:
    """Seconds until a run of so many events is on the screen, with the summary that its store keeps and without."""
    run = (
        RunDir(folder / "runs" / "demo") if (folder / "runs" / "demo").exists() else long_run(folder, events)
    )
    found: dict[str, Any] = {"events": events, "gib": round(run.events_path.stat().st_size / 2**30, 2)}
    found["with_summary_s"] = opened(folder)
    kept = run.summary_path.rename(run.summary_path.with_suffix(".away"))
    found["without_summary_s"] = opened(folder)
    kept.rename(run.summary_path)
    return found


def opened(folder: Path) -> float:
    started = time.monotonic()
    with Terminal(WATCH, 120, 40, cwd=folder, variables=VARIABLES) as terminal:
        text = terminal.wait_for(lambda text: "? help" in text, seconds=600)
        seconds = time.monotonic() - started
        assert "NDCG@10" in text, text
        return round(seconds, 2)


def long_run(folder: Path, events: int) -> RunDir:
    """A run of so many steps, and the summary that its store keeps of all but the last of them."""
    folder.mkdir(parents=True, exist_ok=True)
    run, summary = new_run(folder), RunSummary("demo")
    first = list(in_rl(0, steps=events))
    summary.apply_all(first)
    EventLog(run.events_path).append(first)
    with run.events_path.open("a", encoding="utf-8") as file:
        for step in range(1, events + 1):
            if step == events - UNCOVERED:
                file.flush()
                keep_summary(run, summary, run.events_path.stat().st_size)
            t = first[-1].t + step
            file.write(SHORT_STEP % (step, events, step / events, t))
            # A course has 1,024 values at most, whatever number they are made of.
            if step % (events // 2048) == 0:
                summary.apply(now_event(rl_step(step, events), t))
    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=4.0, help="events a second")
    parser.add_argument("--sizes", nargs="+", default=["80x24", "120x40"])
    parser.add_argument("--events", type=int, help="open a run of so many events, too")
    parser.add_argument("--folder", type=Path, help="where that run is, or is made")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--out", type=Path, help="write the JSON object to this file too")
    arguments = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in arguments.sizes]
    command = f"python benchmarks/watch.py --events {arguments.events} --json"
    found: dict[str, Any] = {"command": command, "hardware": machine(), "load": round(os.getloadavg()[0], 1)}
    found["cost"] = [cost(arguments.seconds, arguments.rate, *size) for size in sizes]
    if arguments.events:
        with tempfile.TemporaryDirectory() as folder:
            found["opening"] = opening(arguments.folder or Path(folder), arguments.events)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(found))
        return
    for row in (*found["cost"], *filter(None, [found.get("opening")])):
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
