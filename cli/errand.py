"""What is asked of a cluster by a process of its own, for one that must not end with it.

Ray kills a process that is connected to a cluster when the cluster dies. A view has a terminal to give back and a run
to show all the same, so it never connects: `Errand` starts this file, which connects, does one thing, tells of it in
lines of JSON, and is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamrec_dist.errors import StreamRecError, UsageError

#: Longer than anything takes that is asked of a controller.
DEADLINE_S = 90.0
READ_BYTES = 2**16
#: Lines of a log before those that are added.
LOG_LINES = 500


class Errand:
    """A process that does one thing about the run in the folder `run`: see `main`.

    One that is not `lasting` is ended where it is overdue. What was asked is done even if nobody waits for it.
    """

    def __init__(self, run: Path, *task: str, lasting: bool = False):
        self.task, self.lasting = task, lasting
        self.started = time.monotonic()
        packages = os.pathsep.join(
            [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        self.process = subprocess.Popen(
            # -P: a folder of that name where the user is must not be taken for ours.
            [sys.executable, "-P", "-m", "cli.errand", str(run), *task],
            env={**os.environ, "PYTHONPATH": packages},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # An interrupt at the terminal is meant for the view.
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout.fileno()
        os.set_blocking(self.output, False)
        self.read = b""

    def told(self) -> Iterator[dict[str, Any]]:
        """What it has told since this was last asked."""
        with contextlib.suppress(BlockingIOError):
            while found := os.read(self.output, READ_BYTES):
                self.read += found
        *whole, self.read = self.read.split(b"\n")
        for line in whole:
            # Whatever else the process prints: a library may warn of something.
            with contextlib.suppress(ValueError):
                if isinstance(told := json.loads(line), dict):
                    yield told
        if not self.lasting and not self.over and time.monotonic() - self.started > DEADLINE_S:
            self.end()

    @property
    def over(self) -> bool:
        """Whether it has ended: what it told last may still have to be read."""
        return self.process.poll() is not None

    def end(self) -> None:
        """End it, where it has not."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


def main() -> int:
    """RUN stop | pause | resume | checkpoint: {"said": ...}. RUN alive: {"alive": ...}. RUN log ROLE NODE PID: its
    last lines and those that are added, {"text": ...}, until its end. What cannot be done: {"error": ...}."""
    run, task, *further = sys.argv[1:]
    try:
        for told in _done(Path(run), task, further):
            print(json.dumps(told), flush=True)
    except StreamRecError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return error.exit_code
    return 0


def _done(run: Path, task: str, further: list[str]) -> Iterator[dict[str, Any]]:
    from cli import cluster

    # The run lies in runs/, beside which the record of the cluster is.
    record = cluster.find_cluster(run.parents[1])
    if task == "log":
        from cli.logs import LogReader

        role, node, pid = further
        yield from _log(LogReader(record), role, node, int(pid))
        return
    cluster.connect(record, to_work=False)
    yield _asked(run, task)
    cluster.disconnect()


def _asked(run: Path, task: str) -> dict[str, Any]:
    from cli import asking

    if task == "alive":
        return {"alive": asking.run_alive(run)}
    if task == "stop":
        asking.request_stop(run)
        return {"said": "it writes a checkpoint and ends"}
    if task == "checkpoint":
        return {"said": asking.keep_run(run)}
    asking.pause_run(run, task == "pause")
    return {"said": "it finishes what is at work, then rests" if task == "pause" else "it goes on"}


def _log(reader: Any, role: str, node: str, pid: int) -> Iterator[dict[str, Any]]:
    """What a process of a role prints; of several of that number the one that runs on the node, or printed last."""
    nodes = _addresses(reader)
    found = [log for log in reader.logs() if log.role == role and log.worker.pid == pid]
    if not found:
        raise UsageError(f"no log of process {pid} on the nodes that are up")
    log = max(found, key=lambda log: (nodes.get(log.node) == node, log.worker.alive, log.worker.written))
    offsets = {}
    for path in (log.worker.out, log.worker.err):
        text, offsets[path] = reader.last_lines(log, path, LOG_LINES)
        yield {"text": text}
    for _, _, text in reader.follow([log], offsets):
        yield {"text": text}
    yield {"text": "", "ended": True}


def _addresses(reader: Any) -> dict[str, str]:
    """Of nodes by name, where logs are fetched from several."""
    if not reader.nodes:
        return {}
    from cli.members import members

    return {member.node: member.address for member in members()}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        # Nobody waits for the answer any more. What is left of it must not be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
