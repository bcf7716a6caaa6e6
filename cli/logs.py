"""The logs of a cluster's actors, from whichever node has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import worker_logs
from cli.cluster import connect
from cli.members import HEAD, ROLES, members
from cli.record import ClusterRecord
from cli.typed import whole_number
from cli.worker_logs import WorkerLog
from streamrec_dist.errors import EnvironmentProblem, UsageError

NODE_SECONDS = 60.0
FOLLOW_SECONDS = 1.0
NAMES = tuple(dict.fromkeys(ROLES.values()))


@dataclass(frozen=True)
class Log:
    """The log of one actor: the N-th of its role, the living ones first, then those that ended, newest first."""

    role: str
    number: int
    node: str
    worker: WorkerLog

    @property
    def name(self) -> str:
        return f"{self.role}/{self.number}"


class LogReader:
    """Calls the functions of `worker_logs` on the node that has a file."""

    def __init__(self, record: ClusterRecord):
        self.record = record
        #: Node ids by name; this machine's files are read from disk, with or without a cluster.
        self.nodes: dict[str, str] = {}
        if record.nodes or not record.created_by_us:
            connect(record)
            self.nodes = {member.node: member.id for member in members() if member.alive}

    def logs(self) -> list[Log]:
        """All logs there are of our roles, numbered."""
        here = [HEAD] if self.record.created_by_us else []
        names = dict.fromkeys([*here, *self.nodes])
        found = [(name, worker) for name in names for worker in self._found_on(name)]
        ours = [(name, worker) for name, worker in found if worker.class_name in ROLES]
        # Python sorts stably: nodes stay in their order.
        ours.sort(key=lambda one: (not one[1].alive, 0 if one[1].alive else -one[1].written))
        counts = dict.fromkeys(NAMES, 0)
        logs = []
        for node, worker in ours:
            role = ROLES[worker.class_name]
            logs.append(Log(role, counts[role], node, worker))
            counts[role] += 1
        return sorted(logs, key=lambda log: NAMES.index(log.role))

    def last_lines(self, log: Log, path: str, lines: int) -> tuple[str, int]:
        text, size = self._call(log.node, worker_logs.last_lines, path, lines)
        return text, size

    def follow(self, logs: Sequence[Log], offsets: dict[str, int]) -> Iterator[tuple[Log, str, str]]:
        """What is added to the logs, as log, path and text, for as long as one of their actors lives."""
        alive = True
        while alive:
            # Looked at before reading: what an actor prints last is still read.
            pids = {(log.node, log.worker.pid) for log in self.logs() if log.worker.alive}
            alive = any((log.node, log.worker.pid) in pids for log in logs)
            for log in logs:
                for path in (log.worker.out, log.worker.err):
                    text, offsets[path] = self._call(log.node, worker_logs.since, path, offsets[path])
                    if text:
                        yield log, path, text
            if alive:
                time.sleep(FOLLOW_SECONDS)

    def _found_on(self, node: str) -> list[WorkerLog]:
        if self._is_here(node):
            return worker_logs.find(f"{self.record.temp_dir}/ray/session_latest/logs")
        return self._call(node, worker_logs.find_here)

    def _is_here(self, node: str) -> bool:
        return node == HEAD and self.record.created_by_us

    def _call(self, node: str, work: Callable[..., Any], *args: Any) -> Any:
        if self._is_here(node):
            return work(*args)
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        pinned = NodeAffinitySchedulingStrategy(node_id=self.nodes[node], soft=False)
        task = ray.remote(work).options(num_cpus=0, scheduling_strategy=pinned)
        try:
            return ray.get(task.remote(*args), timeout=NODE_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise EnvironmentProblem(
                f"{node}: its logs cannot be read: {str(error).splitlines()[0]}"
            ) from None


def pick(logs: Sequence[Log], wanted: str) -> list[Log]:
    """The logs that ROLE or ROLE/N means; a role alone: its living actors, or the one that ended last.

    Raises UsageError for a role that does not exist, or has no such log.
    """
    role, slash, typed = wanted.partition("/")
    number = whole_number(typed)
    if role not in NAMES or (slash and number is None):
        raise UsageError(
            f"{wanted}: expected a role, or role/number such as rollout/0; roles: {', '.join(NAMES)}"
        )
    of_role = [log for log in logs if log.role == role]
    if slash:
        found = [log for log in of_role if log.number == number]
    else:
        found = [log for log in of_role if log.worker.alive] or of_role[:1]
    if not found:
        has = f"there are {role}/0 to {role}/{len(of_role) - 1}" if of_role else "no such actor has run"
        raise UsageError(f"no log of {wanted}: {has} on the nodes that are up")
    return found


def kind(path: str) -> str:
    """What is in a file: stdout or stderr."""
    return "stderr" if Path(path).suffix == ".err" else "stdout"
