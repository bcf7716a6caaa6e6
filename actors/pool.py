"""Pools of stateless actors: replicas that join, die, freeze and leave while a run goes on."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from actors.calls import Call, explained, ready_of
from streamrec_dist.config import ActorConfig
from streamrec_dist.errors import EnvironmentProblem, InputLost, RunError, WorkerLost, summary
from streamrec_dist.rl.pace import Pace

#: How often one call is begun, and how many replicas in a row may die starting, before the run fails.
ATTEMPTS = 4
#: Calls that a replica has at a time: one at work, one whose arguments are fetched meanwhile.
DEPTH = 2
#: A pool that was not looked after for so long does not know when its calls ended.
UNTENDED_S = 2.0


@dataclass(eq=False)
class Replica:
    """One actor of a pool, and the calls that it has, the oldest first."""

    actor: Any
    starting: Any  # resolves when it is up; None from then on
    place: dict[str, Any] = field(default_factory=dict)  # node, pid
    calls: deque[tuple[Any, Call]] = field(default_factory=deque)
    since: float = 0.0  # when the oldest call began
    begun: int = 0  # which of the pool's calls the newest is
    finished: int = 0
    number: int = 0  # in its role; one that replaces another has that one's
    told: dict[str, Any] = field(default_factory=dict)  # by its newest receipt: version, memory_mib
    leaving: bool = False

    @property
    def ready(self) -> bool:
        return self.starting is None and not self.leaving


class Pool:
    """Replicas of one role, as many as `target`; calls go to whichever is free.

    A replica that dies, or whose call is overdue, is replaced, and what it had is done by the others: a node that
    goes is missed without an error as long as `minimum` replicas are up, or come up within `patience_s`. The others
    start while every role of the stage has its minimum (`filling`); beyond what the cluster holds they wait for
    nodes to come.
    """

    def __init__(
        self,
        role: str,
        actor_class: Any,
        config: ActorConfig,
        args: Sequence[Any],
        resources: dict[str, float] | None = None,
        patience_s: float = 180.0,
        report: Callable[[str], None] = lambda message: None,
        clock: Callable[[], float] = time.monotonic,
        threads: dict[str, int] | None = None,
        slack_s: float = 0.0,
    ):
        """`args` are the constructor's arguments, big ones as object references; `report` is told what happened.

        `threads` are groups of threads (Ray's concurrency groups) besides the one that does the calls. A call may
        have to wait `slack_s` for others before its work begins.
        """
        self.role, self.target, self.minimum, self.slack_s = role, config.replicas, config.minimum, slack_s
        self.patience_s, self.report, self.clock = patience_s, report, clock
        self.args = args
        remote: Any = ray.remote  # whose types do not know of threads
        self.actor_class = remote(concurrency_groups=threads)(actor_class).options(
            num_cpus=config.cpus, num_gpus=config.gpus, resources=resources or {}
        )
        self.members: list[Replica] = []
        self.waiting: deque[Call] = deque()
        self.pace = Pace()
        self.lost = self.failed_starts = 0
        self.replaced: dict[int, int] = {}  # how often, by number
        self._turn = 0
        self.filling = False
        self.tended = clock()
        self.short_since: float | None = clock()
        self.hire()

    # what the rest of the system sees

    @property
    def ready(self) -> int:
        """Replicas that are up."""
        return sum(member.ready for member in self.members)

    def actors(self) -> dict[str, Any]:
        """The actors that are up, by the ids Ray gives their processes."""
        return {member.place["worker"]: member.actor for member in self.members if member.ready}

    @property
    def needed(self) -> int:
        """Replicas without which there is no going on."""
        return min(self.minimum, self.target)

    def call(self, method: str, *args: Any, units: int = 1) -> Call:
        """Have a method called by one of the replicas; what it may take goes by its `units` of work."""
        call = Call(method, args, units)
        self.waiting.append(call)
        self.hand_out()
        return call

    def forget(self) -> None:
        """Drop every call there is: nobody waits for them any more."""
        self.waiting.clear()
        for member in self.members:
            for _, call in member.calls:
                call.finish(error=RunError("dropped"))

    def close(self) -> None:
        for member in self.members:
            ray.kill(member.actor)
        self.members, self.target = [], 0

    def state(self) -> dict[str, Any]:
        """For people: what there is and what it does."""
        return {
            "target": self.target,
            "ready": self.ready,
            "waiting": len(self.waiting),
            "lost": self.lost,
            "replicas": [
                {
                    "state": "leaving" if member.leaving else "ready" if member.ready else "starting",
                    "number": member.number,
                    "calls": len(member.calls),
                    "finished": member.finished,
                    "restarts": self.replaced.get(member.number, 0),
                    **member.told,
                    **member.place,
                }
                for member in list(self.members)
            ],
        }

    # what the runtime does while it waits

    def pending(self) -> list[Any]:
        """References whose being ready is worth looking at."""
        refs = [member.starting for member in self.members if member.starting is not None]
        return refs + [member.calls[0][0] for member in self.members if member.calls]

    def tend(self, found: Sequence[Any] | None = None) -> None:
        """Take what is finished, replace what is lost, fill up to `target`, and hand out what waits.

        `found` are references that are ready, where the caller has just asked. Raises StreamRecError when the role
        cannot be kept up.
        """
        ready = set(ready_of(self.pending()) if found is None else found)
        self._take_started([member for member in self.members if member.starting in ready])
        for member in list(self.members):
            while member.calls and member.calls[0][0] in ready and self._take(member):
                if member.calls:
                    ready |= set(ready_of([member.calls[0][0]]))
            if member.calls and self.clock() - member.since > self._limit(member.calls[0][1]):
                self._lose(member, f"was busy with one {member.calls[0][1].method} for too long")
            if member.leaving and not member.calls and member in self.members:
                self._dismiss(member)
        self.tended = self.clock()
        self.hire()
        self.hand_out()
        self._check_strength()

    def hire(self) -> None:
        """Start replicas up to `target`, or let the least busy leave."""
        staying = [member for member in self.members if not member.leaving]
        wanted = self.target if self.filling else self.needed
        for _ in range(wanted - len(staying)):
            actor = self.actor_class.remote(*self.args)
            taken = {member.number for member in self.members}
            number = next(number for number in itertools.count() if number not in taken)
            self.members.append(Replica(actor, actor.place.remote(), number=number))
        spare = len(staying) - self.target
        for member in sorted(staying, key=lambda one: (one.ready, len(one.calls)))[: max(spare, 0)]:
            member.leaving = True
            if not member.calls:
                self._dismiss(member)

    def spare(self) -> list[Replica]:
        """Replicas beyond the needed, those that are not up yet first."""
        staying = [member for member in self.members if not member.leaving]
        return sorted(staying, key=lambda one: one.ready)[: max(len(staying) - self.needed, 0)]

    def hand_out(self) -> None:
        """Give waiting calls to the replicas that have least to do."""
        while self.waiting:
            free = [member for member in self.members if member.ready and len(member.calls) < DEPTH]
            if not free:
                return
            # Idle ones in turn; else where the call at work began first, which will end first.
            member = min(free, key=lambda one: (len(one.calls), one.since if one.calls else one.begun))
            self._turn += 1
            member.begun = self._turn
            call = self.waiting.popleft()
            if not member.calls:
                member.since = self.clock()
            member.calls.append((call.start(member.actor), call))

    def _limit(self, call: Call) -> float:
        return self.pace.limit(call.method, call.units, call.begun) + self.slack_s

    def _take_started(self, members: Sequence[Replica]) -> None:
        """Note who is up, and who died while starting: with a node several may, which is one failure."""
        died = None
        for member in members:
            try:
                member.place = ray.get(member.starting)
                member.starting = None
                self.failed_starts = 0
            except ray.exceptions.RayError as error:
                died = error
                if isinstance(error, ray.exceptions.RayActorError) and error.actor_init_failed:
                    self.failed_starts = ATTEMPTS
                self._lose(member, "died while starting")
        self.failed_starts += died is not None
        if died is not None and self.failed_starts >= ATTEMPTS:
            raise RunError(f"a {self.role} actor could not start: {summary(died)}")

    def _take(self, member: Replica) -> bool:
        """Take the result of the oldest call; False when the replica is lost instead."""
        ref, call = member.calls[0]
        try:
            receipt, error = ray.get(ref), None
        except ray.exceptions.RayError as raised:
            receipt, error = None, explained(raised, call.method)
            if isinstance(error, WorkerLost) and not isinstance(error, InputLost):
                self._lose(member, "died")
                return False
        member.calls.popleft()
        now = self.clock()
        if error is None and not call.done and now - self.tended < UNTENDED_S:
            self.pace.took(call.method, now - member.since, call.units)
        member.since = now
        member.finished += 1
        if isinstance(receipt, dict):
            known = {**receipt.get("spans", {}), **receipt}
            member.told = {name: known[name] for name in ("version", "memory_mib") if name in known}
        if not call.done:
            call.finish(receipt, error)
        return True

    def _lose(self, member: Replica, why: str) -> None:
        """Replace a replica that is of no use any more."""
        self.lost += 1
        self.replaced[member.number] = self.replaced.get(member.number, 0) + 1
        count = self.withdraw(member)
        where = f" on {member.place['node']}" if member.place else ""
        self.report(f"a {self.role} actor{where} {why}; it is replaced, and {count} calls are begun again")

    def withdraw(self, member: Replica) -> int:
        """Have a replica give up its place at once. What it had, so many calls, goes first to the others."""
        self._dismiss(member)
        calls = [call for _, call in member.calls if not call.done]
        member.calls.clear()
        for call in reversed(calls):
            call.payload = None
            if call.begun < ATTEMPTS:
                self.waiting.appendleft(call)
            else:
                call.finish(
                    error=RunError(
                        f"{call.begun} {self.role} actors were lost in the same {call.method}: "
                        "does a process run out of memory? see `streamrec-dist logs`"
                    )
                )
        return len(calls)

    def _dismiss(self, member: Replica) -> None:
        self.members.remove(member)
        ray.kill(member.actor)

    def _check_strength(self) -> None:
        """Raise EnvironmentProblem when too few replicas have been up for too long."""
        if self.ready >= self.needed:
            self.short_since = None
            return
        now = self.clock()
        self.short_since = now if self.short_since is None else self.short_since
        if now - self.short_since > self.patience_s:
            raise EnvironmentProblem(
                f"{self.ready} {self.role} actors are up, actors.{self.role}.minimum is {self.minimum}, and for "
                f"{self.patience_s:.0f} s (cluster.patience_s) no other could start; is the cluster busy with "
                "another run, or has it lost nodes? see `streamrec-dist status`"
            )


def wait_started(pools: Sequence[Pool]) -> None:
    """Wait until each pool has as many replicas as it needs at least. Raises EnvironmentProblem when one has not."""
    while any(pool.ready < pool.needed for pool in pools):
        refs = [ref for pool in pools for ref in pool.pending()]
        ray.wait(refs, num_returns=1, timeout=1.0, fetch_local=False)
        for pool in pools:
            pool.tend()
