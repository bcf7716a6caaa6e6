"""The demo: every stage on the built-in data, by the commands that a user would type.

up -> train --stage all -> evaluate each stage -> one table -> down. It checks that something was learned.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.cluster import alive
from cli.output import clean, comparison, four, note, show, span
from cli.record import read_record
from cli.workspace import runs_folder
from streamrec_dist.errors import RunError, StreamRecError
from streamrec_dist.events import EventReader
from streamrec_dist.rundir import RunDir, write_atomically

ROWS = {
    "counting": "counting baseline",
    "popularity": "popularity",
    "direct": "direct decoder (TIGER on the trie)",
    "retrieve": "retriever (the evidence alone)",
    "pretrain": "after pretrain",
    "sft": "after SFT",
    "rl": "after RL",
}
INTERRUPTED = 130
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run the demo. Returns the exit code: 0 learned, 1 not, 130 interrupted."""
    begun = time.monotonic()
    for number in STOPPING:
        signal.signal(number, _interrupted)
    ours = False
    try:
        known = read_record(Path.cwd())
        ours = known is None or not alive(known)
        code = _demo()
    except StreamRecError as error:
        note(f"error: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        note("interrupted: taking everything down")
        code = INTERRUPTED
    finally:
        if ours and read_record(Path.cwd()):
            _take_down()
    note(f"the demo took {span(time.monotonic() - begun)}")
    return code


def _demo() -> int:
    _command("up", "cluster.yaml")
    runs = runs_folder()
    run = RunDir(runs / _free_name(runs))
    _command("train", "--stage", "all", "--run", run.name)
    if "rl" not in run.finished_stages():
        raise KeyboardInterrupt
    results = {
        stage: _command_json("evaluate", run.name, "--stage", stage, "--split", "test", "--json")
        for stage in ROWS
    }
    kind = "SYNTHETIC demo data" if results["rl"]["synthetic"] else "demo data"
    title = f"{kind}, {results['rl']['users']} test users, history allowed, 95 % intervals"
    table = comparison(title, [(name, results[stage]) for stage, name in ROWS.items()])
    print()
    show(table)
    print()
    write_atomically(run.path / "results" / "demo.json", json.dumps(results, indent=1))
    note(f"everything is in {run.path}: config.yaml, events.jsonl, checkpoints/, stages/, results/")
    return _judge(run, results)


def _judge(run: RunDir, results: dict[str, dict[str, Any]]) -> int:
    """Print what was learned; 1 when a stage learned nothing."""
    checks = [_direct_learned(results), _sft_learned(run), _rl_learned(run)]
    for learned, message in checks:
        note(f"{'ok' if learned else 'NOT LEARNED'}: {message}")
    return 0 if all(learned for learned, _ in checks) else 1


def _direct_learned(results: dict[str, dict[str, Any]]) -> tuple[bool, str]:
    direct, popularity = results["direct"], results["popularity"]
    low, high = direct["recall@10_ci"][0], popularity["recall@10_ci"][1]
    text = (
        f"direct decoder Recall@10 {four(direct['recall@10'])} against popularity {four(popularity['recall@10'])} "
        f"(lower end {four(low)}, upper end {four(high)})"
    )
    return low > high, text


def _sft_learned(run: RunDir) -> tuple[bool, str]:
    result = run.stage_result("sft")
    if result is None:
        raise RunError(f"run {run.name} has no result of stage sft")
    first, last = result.metrics["sampled_nll_first"], result.metrics["sampled_nll_last"]
    return last < first, f"the target's loss under sampled thoughts in SFT: {first:.3f} -> {last:.3f}"


def _rl_learned(run: RunDir) -> tuple[bool, str]:
    first, last = reward_course(run)
    return last > first, f"mean total reward in RL, first fifth to last fifth: {first:.3f} -> {last:.3f}"


def reward_course(run: RunDir) -> tuple[float, float]:
    """Mean total reward of the first and of the last fifth of the RL steps. Raises RunError without steps."""
    by_step = {
        event.step: event.metrics["reward/total"]
        for event in EventReader(run.events_path).new()
        if event.kind == "step" and event.stage == "rl" and event.metrics.get("reward/total") is not None
    }
    totals = [by_step[step] for step in sorted(by_step)]
    if not totals:
        raise RunError(f"run {run.name} has no steps of stage rl in {run.events_path}")
    fifth = max(1, len(totals) // 5)
    return sum(totals[:fifth]) / fifth, sum(totals[-fifth:]) / fifth


def _free_name(runs: Path) -> str:
    number = 1
    while (runs / f"demo-{number}").exists():
        number += 1
    return f"demo-{number}"


def _command(*arguments: str) -> None:
    """Echo a command, run it, and end the demo as the command ended."""
    _echo(arguments)
    _run(arguments)


def _command_json(*arguments: str) -> dict[str, Any]:
    _echo(arguments)
    return json.loads(_run(arguments, stdout=subprocess.PIPE).splitlines()[-1])


def _take_down() -> None:
    # A second Ctrl-C must not leave half a cluster behind: the command gets a session of its own.
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    _echo(("down",))
    subprocess.run([sys.executable, "-m", "cli.app", "down"], start_new_session=True)


def _run(arguments: Sequence[str], stdout: int | None = None) -> str:
    process = subprocess.Popen([sys.executable, "-m", "cli.app", *arguments], stdout=stdout, text=True)
    try:
        output, _ = process.communicate()
    except KeyboardInterrupt:
        _interrupt(process)
        raise
    if process.returncode in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if process.returncode:
        raise RunError(
            f"streamrec-dist {arguments[0]} ended with exit code {process.returncode}; the demo stops here"
        )
    return output or ""


def _interrupt(process: subprocess.Popen[str]) -> None:
    """Let a command end by itself: from a terminal it has got the interrupt too, and tidies up."""
    for wait, number in ((2.0, signal.SIGINT), (20.0, signal.SIGKILL)):
        try:
            process.wait(timeout=wait)
            return
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    process.wait()


def _echo(arguments: Sequence[str]) -> None:
    print(f"\n$ streamrec-dist {clean(shlex.join(arguments))}", flush=True)


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
