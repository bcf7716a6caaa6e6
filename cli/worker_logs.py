"""What the worker processes of one node have printed: Ray keeps stdout and stderr of each in a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

#: worker-WORKER-JOB-PID.out
NAME = re.compile(r"worker-(?P<worker>[0-9a-f]+)-[0-9a-f]+-(?P<pid>\d+)\.out")
ACTOR = ":actor_name:"
#: Lines by which Ray tells whose output follows.
MARKERS = (":job_id:", ACTOR, ":task_name:")
HEAD_BYTES = 4096
TAIL_BYTES = 1 << 20


@dataclass(frozen=True)
class WorkerLog:
    """The two files of one worker process that was an actor."""

    class_name: str
    pid: int
    alive: bool
    written: float  # when it last printed something, seconds since 1970
    out: str
    err: str


def find(folder: str) -> list[WorkerLog]:
    """The logs of all actors in a folder of Ray's logs, of those that have ended too."""
    found = []
    for path in sorted(Path(folder).glob("worker-*.out")):
        match = NAME.fullmatch(path.name)
        if match and (class_name := _class_of(path)):
            pid, err = int(match["pid"]), path.with_suffix(".err")
            written = max(file.stat().st_mtime for file in (path, err) if file.exists())
            found.append(WorkerLog(class_name, pid, _is_worker(pid), written, str(path), str(err)))
    return found


def session_logs() -> str:
    """The folder of Ray's logs on the node where this runs in a task."""
    from ray._private.worker import _global_node

    assert _global_node is not None, "a task runs in a worker, which belongs to a node"
    return str(_global_node.get_logs_dir_path())


def find_here() -> list[WorkerLog]:
    return find(session_logs())


def last_lines(path: str, lines: int) -> tuple[str, int]:
    """The last lines of a file, and how many bytes it has."""
    text, size = since(path, max(0, _size(path) - TAIL_BYTES))
    return "".join(text.splitlines(keepends=True)[-lines:] if lines else []), size


def since(path: str, offset: int) -> tuple[str, int]:
    """What was written to a file after `offset` bytes, up to its last whole line, and where that ends."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            body = file.read()
    except FileNotFoundError:
        return "", offset
    whole = body[: body.rfind(b"\n") + 1]
    lines = whole.decode("utf-8", errors="replace").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(MARKERS)), offset + len(whole)


def _class_of(path: Path) -> str:
    with path.open("rb") as file:
        lines = file.read(HEAD_BYTES).decode("utf-8", errors="replace").splitlines()
    return next((line.removeprefix(ACTOR) for line in lines if line.startswith(ACTOR)), "")


def _is_worker(pid: int) -> bool:
    """Whether the process is still a Ray worker: another one may have got its number."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0
