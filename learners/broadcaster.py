"""A publisher that sends weights to workers at once, as far as they can take them (`transport: collective`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ray

from learners.publisher import WeightPublisher
from streamrec_dist.config import ActorConfig, LearnersConfig
from streamrec_dist.errors import summary
from streamrec_dist.rl.broadcast import BROADCAST, DEADLINE_S, Kept, Plan, Transport, transport_for
from streamrec_dist.rl.ports import Payload, Published

#: Replicas of an actor class with a method `receive(plan, rank)`, by the ids Ray gives their processes.
Receivers = Callable[[], Mapping[str, Any]]
#: How an actor is called beside what it is at.
ASIDE = {"concurrency_group": BROADCAST}


class Sent(NamedTuple):
    """A call to take part in a broadcast."""

    ref: Any
    key: int
    until: float


class BroadcastPublisher(WeightPublisher):
    """Implements the Publisher port: begins a broadcast of every kept vector, and waits for nothing.

    A replica that still has a broadcast to answer for is not invited to the next; while the learner has, there is
    none. A broadcast that failed is followed by one in a new group. What is not broadcast is asked for.
    """

    def __init__(
        self,
        report: Callable[[str], None],
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`report` is told of the first failure; later ones are counted."""
        super().__init__()
        self.report, self.deadline_s, self.clock = report, deadline_s, clock
        self.receivers: Receivers = dict
        self.transport: Transport = "gloo"
        self.owner: Any = None
        self.address: Any = None  # that of the owner's store, or the reference to it
        self.epoch = 0
        self.members: tuple[str, ...] = ()  # of the group there is; none: the next broadcast forms one
        self.unanswered: dict[str, Sent] = {}  # by replica, "" is the learner
        self.key = -1  # of the last that was broadcast
        self.failed: set[int] = set()  # keys of those that failed
        self.counts = {"broadcast": 0, "failed": 0, "stored": 0}  # for people

    def send_to(self, receivers: Receivers, learners: LearnersConfig, actors: ActorConfig) -> None:
        """From now on broadcast to `receivers`, which are such `actors`; `gpus: auto` is settled in both."""
        self.receivers, self.transport = receivers, transport_for(learners.gpus, actors.gpus)

    def publish(self, vector: Payload) -> Published:
        published = super().publish(vector)
        if isinstance(vector, Kept) and not vector.invited:
            began = self._begin(vector)
            self.counts["broadcast" if began else "stored"] += 1
        return published

    def _begin(self, kept: Kept) -> bool:
        if kept.owner is not self.owner:
            self.owner, self.address = kept.owner, kept.owner.open_store.options(**ASIDE).remote()
            self.members, self.unanswered = (), {}
        self._take_answers()
        if "" in self.unanswered or not self._has_address():
            return False
        invited = {name: actor for name, actor in self.receivers().items() if name not in self.unanswered}
        if not invited:
            return False
        if tuple(invited) != self.members:
            self.epoch, self.members = self.epoch + 1, tuple(invited)
        size = 1 + len(invited)
        plan = Plan(kept.key, self.address, self.epoch, size, self.transport, self.deadline_s)
        self.key, until = kept.key, self.clock() + self.deadline_s
        self.unanswered[""] = Sent(kept.owner.broadcast.options(**ASIDE).remote(plan), kept.key, until)
        for rank, (name, actor) in enumerate(invited.items(), start=1):
            ref = actor.receive.options(**ASIDE).remote(plan, rank)
            self.unanswered[name] = Sent(ref, kept.key, until)
        kept.invited, kept.deadline_s = frozenset(invited), self.deadline_s
        return True

    def _has_address(self) -> bool:
        if not isinstance(self.address, tuple):
            answer = _answer(self.address)
            if isinstance(answer, ray.exceptions.RayError):
                self._fail(-1, answer)
            elif answer is not None:
                self.address = answer[0]
        return isinstance(self.address, tuple)

    def _take_answers(self) -> None:
        for name, sent in list(self.unanswered.items()):
            answer = _answer(sent.ref)
            if answer is not None:
                del self.unanswered[name]
            if isinstance(answer, ray.exceptions.RayError):
                self._fail(sent.key, answer)
            elif answer is None and self.clock() > sent.until:
                self._fail(sent.key, TimeoutError(f"no answer within {self.deadline_s:g} s"))

    def _fail(self, key: int, error: Exception) -> None:
        """Count a broadcast that failed, once; if it was the last, the next forms a group of its own."""
        if key == self.key:
            self.members = ()
        if key in self.failed:
            return
        self.failed.add(key)
        self.counts["failed"] += 1
        if self.counts["failed"] == 1:
            self.report(
                "a broadcast of weights failed; whom one does not reach has them from the object store: "
                f"{summary(error)}"
            )


def _answer(ref: Any) -> tuple[Any] | ray.exceptions.RayError | None:
    """What a reference stands for, in a tuple, or its error; None when it is not there yet."""
    try:
        return (ray.get(ref, timeout=0),)
    except ray.exceptions.GetTimeoutError:
        return None
    except ray.exceptions.RayError as error:
        return error
