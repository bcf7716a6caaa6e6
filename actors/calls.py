"""Work that Ray does: calls of pools, tasks of the learners' gang, and the runtime that waits for both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ray

from actors.inbox import fetch
from streamrec_dist.errors import EnvironmentProblem, InputLost, RunError, StreamRecError, WorkerLost, summary
from streamrec_dist.rl.broadcast import Kept
from streamrec_dist.rl.pace import YIELD_S
from streamrec_dist.rl.ports import Task

if TYPE_CHECKING:
    from actors.pool import Pool

#: How often pools are looked after while nothing happens.
TICK_S = 0.5
VALUE_DEADLINE_S = 300.0
#: An object that went with the process or node that made it.
GONE = (ray.exceptions.ObjectLostError, ray.exceptions.RayActorError)


class Call(Task):
    """One call of a method of a pool, done once by whichever replica, however often it has to be begun."""

    def __init__(self, method: str, args: Sequence[Any], units: int = 1):
        super().__init__(receipt=None)
        self.method, self.args, self.units = method, args, units
        self.begun = 0
        self.error: StreamRecError | None = None
        self.done = False

    def start(self, actor: Any) -> Any:
        """Send it to a replica; the reference to its receipt. A method with two returns gives a payload as well."""
        self.begun += 1
        returned = getattr(actor, self.method).remote(*self.args)
        ref, self.payload = returned if isinstance(returned, list) else (returned, None)
        return ref

    def finish(self, receipt: Any = None, error: StreamRecError | None = None) -> None:
        self.receipt, self.error, self.done = receipt, error, True
        self.args = ()  # weights of old versions must not be held


class RayRuntime:
    """Implements the Runtime port on object references; looks after `pools` while it waits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.pools: list[Pool] = []
        self.clock = clock
        self.yielded = 0.0

    def tend(self, found: Sequence[Any] | None = None) -> None:
        """Look after the pools; while one lacks what it needs, the others take no room beyond their own needs.

        `found` are references that are ready, where the caller has just asked.
        """
        for pool in self.pools:
            pool.tend(found)
        lacking = [pool.short_since for pool in self.pools if pool.short_since is not None]
        for pool in self.pools:
            pool.filling = not lacking
        now = self.clock()
        if lacking and now - max(self.yielded, *lacking) > YIELD_S:
            self.yielded = now
            self.make_room()

    def make_room(self) -> None:
        """Take the places of replicas that are not needed: of all that only wait for one, or else of one."""
        waiting = [(pool, one) for pool in self.pools for one in pool.spare() if not one.ready]
        for pool, one in waiting:
            pool.withdraw(one)
        if not waiting and self.pools:
            pool = max(self.pools, key=lambda pool: len(pool.spare()))
            for one in pool.spare()[:1]:
                pool.withdraw(one)

    def wait(self, tasks: Sequence[Task], what: str, timeout_s: float) -> Task:
        """The first finished task; where one part of a gang's task fails, RunError or WorkerLost at once."""
        deadline = time.monotonic() + timeout_s
        finished: set[Any] = set()
        gang = [task for task in tasks if not isinstance(task, Call)]
        owner = {ref: task for task in gang for ref in task.receipt}
        ready: list[Any] | None = None
        while True:
            self.tend(ready)
            done = next((task for task in tasks if _is_done(task, finished)), None)
            if done is not None:
                return done
            now = time.monotonic()
            for task in gang:
                # Overdue is what nobody looked at for long, too.
                if now > task.limit and len(ready_of(task.receipt)) < len(task.receipt):
                    raise WorkerLost(f"{what} is overdue: its workers are taken for lost")
            if now > deadline:
                raise RunError(f"nothing finished within {timeout_s:.0f} s while waiting for {what}")
            refs = [ref for pool in self.pools for ref in pool.pending()]
            refs += [ref for ref in owner if ref not in finished]
            left = min(deadline, *(task.limit for task in gang), now + TICK_S) - now
            ready = _first_ready(refs, max(left, 0.0))
            for ref in ready:
                if ref in owner:
                    # One of several ranks failing must not leave the others' results awaited for ever.
                    if len(owner[ref].receipt) > 1:
                        get(ref, what, timeout_s)
                    finished.add(ref)

    def receipt(self, task: Task, what: str, timeout_s: float) -> Any:
        done = self.wait([task], what, timeout_s)
        if not isinstance(done, Call):
            return done.merge([get(ref, what, timeout_s) for ref in done.receipt])
        if done.error is not None:
            raise type(done.error)(f"{what}: {done.error}") from done.error
        return done.receipt

    def share(self, value: Any) -> Any:
        return ray.put(value)

    def value(self, payload: Any) -> Any:
        if isinstance(payload, Kept):
            return fetch(payload)
        return get(payload, "what a worker made", VALUE_DEADLINE_S)


def _is_done(task: Task, finished: set[Any]) -> bool:
    return task.done if isinstance(task, Call) else all(ref in finished for ref in task.receipt)


def ready_of(refs: list[Any]) -> list[Any]:
    """Those references that are ready now."""
    return ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)[0] if refs else []


def _first_ready(refs: list[Any], timeout_s: float) -> list[Any]:
    """All that are ready as soon as one is."""
    if not refs:
        time.sleep(timeout_s)
        return []
    ready, rest = ray.wait(refs, num_returns=1, timeout=timeout_s, fetch_local=False)
    return ready + ready_of(rest) if ready else []


def get(ref: Any, what: str, timeout_s: float) -> Any:
    """What a reference stands for.

    Raises RunError; WorkerLost when its process died, InputLost when that of an argument did.
    """
    try:
        return ray.get(ref, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        raise RunError(f"{what} did not finish within {timeout_s:.0f} s") from None
    except ray.exceptions.RayError as error:
        raise explained(error, what) from None


def explained(error: ray.exceptions.RayError, what: str) -> StreamRecError:
    """Ray's error as one of ours."""
    if isinstance(error, ray.exceptions.RayTaskError):
        cause: Any = error.cause
        if isinstance(cause, StreamRecError):
            return cause
        # An argument made by a process that has died since comes back as its consumer's failure.
        kind = InputLost if isinstance(cause, GONE) else RunError
        return kind(f"{what} failed: {summary(error)}")
    if isinstance(error, ray.exceptions.OutOfDiskError):
        return EnvironmentProblem(
            f"{what} failed: the disk of a node is full, and so is its object store; free some space: "
            f"{summary(error)}"
        )
    if isinstance(error, ray.exceptions.ObjectLostError):
        return InputLost(f"{what} is gone with the node that had it: {summary(error)}")
    return WorkerLost(f"a process died during {what}: {summary(error)}")
