"""Weights by broadcast: who is invited when, what is kept, and groups beside torch's default one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
import torch.distributed as dist

from learners import broadcaster
from learners.broadcaster import BroadcastPublisher
from learners.group import KeptVectors
from streamrec_dist.errors import WorkerLost
from streamrec_dist.rl.broadcast import Kept, Member, Plan, transport_for


@dataclass(eq=False)
class Ref:
    """A call, and how it ended."""

    args: tuple[Any, ...]
    answer: Any = None


def method(work: Callable[..., Ref]) -> Any:
    """One of Ray's, which is called in a thread of its own."""
    return SimpleNamespace(options=lambda concurrency_group: SimpleNamespace(remote=work))


@dataclass(eq=False)
class Actor:
    """Answers at once, unless it is `frozen`; `calls` are the broadcasts it was in."""

    answer: Any = (None,)
    calls: list[Ref] = field(default_factory=list)

    def _broadcast(self, *args: Any) -> Ref:
        self.calls.append(Ref(args, self.answer))
        return self.calls[-1]

    def __post_init__(self) -> None:
        self.receive = self.broadcast = method(self._broadcast)
        self.open_store = method(lambda: Ref((), (("10.0.0.1", 99),)))


@pytest.fixture
def setting(monkeypatch):
    """A publisher of a learner and two replicas; `said` is what was reported, `now` the clock."""
    monkeypatch.setattr(broadcaster, "_answer", lambda ref: ref.answer)
    said: list[str] = []
    now = [0.0]
    publisher = BroadcastPublisher(said.append, deadline_s=5, clock=lambda: now[0])
    learner, replicas = Actor(), {"a": Actor(), "b": Actor()}
    publisher.receivers = lambda: replicas
    keys = iter(range(100))

    def publish() -> Kept:
        kept = Kept(next(keys), learner)
        publisher.publish(kept)
        return kept

    return SimpleNamespace(**locals())


def epochs(actor: Actor) -> list[int]:
    return [call.args[0].epoch for call in actor.calls]


def test_a_group_lasts_for_as_long_as_its_members_are_the_same(setting):
    for _ in range(2):
        assert setting.publish().invited == {"a", "b"}
    setting.replicas["c"] = Actor()
    assert setting.publish().invited == {"a", "b", "c"}
    del setting.replicas["a"]
    setting.publish()
    assert epochs(setting.learner) == [1, 1, 2, 3]
    assert [
        (call.args[0].key, call.args[0].world_size, call.args[1]) for call in setting.replicas["c"].calls
    ] == [
        (2, 4, 3),
        (3, 3, 2),
    ]
    assert setting.publisher.counts == {"broadcast": 4, "failed": 0, "stored": 0}


def test_a_replica_that_has_not_answered_is_not_invited_and_failures_are_told_once(setting):
    frozen = setting.replicas["a"]
    frozen.answer = setting.learner.answer = None
    setting.publish()
    # The learner is still at it: what it publishes meanwhile is not broadcast.
    assert setting.publish().invited == set()
    lost = ray.exceptions.RayError("Operation timed out!")
    setting.learner.calls[0].answer, setting.learner.answer = lost, (None,)
    for _ in range(2):
        assert setting.publish().invited == {"b"}
    assert len(setting.said) == 1 and "timed out" in setting.said[0]
    frozen.calls[0].answer = frozen.answer = lost
    assert setting.publish().invited == {"a", "b"}
    assert setting.publish().invited == {"a", "b"}
    # The thawed replica's late answer is not a failure of the group there is by then.
    assert epochs(setting.replicas["b"]) == [1, 2, 2, 3, 4]
    assert len(setting.said) == 1
    assert setting.publisher.counts == {"broadcast": 5, "failed": 2, "stored": 1}


def test_a_learner_that_never_answers_is_a_failure_at_the_deadline(setting):
    setting.learner.answer = None
    setting.publish()
    setting.now[0] = 6.0
    assert setting.publish().invited == set()
    assert "no answer within 5 s" in setting.said[0]


def test_new_learners_have_a_store_of_their_own(setting):
    setting.learner.answer = None
    setting.publish()
    other = Actor()
    setting.publisher.publish(kept := Kept(7, other))
    assert kept.invited == {"a", "b"} and epochs(other) == [2]


def test_weights_that_are_published_again_are_not_sent_again(setting):
    kept = setting.publish()
    again = setting.publisher.publish(kept)
    assert again.version == 1 and len(setting.learner.calls) == 1


def test_vectors_are_forgotten_with_their_last_name():
    vectors = KeptVectors()
    first, second = vectors.new("rank 0"), vectors.new("rank 0")
    assert (first.key, second.key, vectors.forgotten()) == (0, 1, [])
    del first
    assert vectors.forgotten() == [0] and vectors.forgotten() == []


@pytest.mark.parametrize(
    "gpus, expected",
    [((1, 1), "nccl"), ((2.0, 1.0), "nccl"), ((1, 0.5), "gloo"), ((0, 1), "gloo"), (("auto", 1), "gloo")],
)
def test_nccl_is_for_members_with_gpus_of_their_own(gpus, expected):
    assert transport_for(*gpus) == expected


def send(members: list[Member], plan: Plan, vectors: list[torch.Tensor]) -> list[WorkerLost | None]:
    """Take part with some members of a group, the first ones, at once; how it ended for each."""
    ended: list[WorkerLost | None] = [None] * len(members)

    def take_part(rank: int) -> None:
        try:
            members[rank].broadcast(plan, rank, vectors[rank])
        except WorkerLost as error:
            ended[rank] = error

    threads = [threading.Thread(target=take_part, args=(rank,)) for rank in range(len(members))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return ended


def test_groups_stand_beside_torchs_default_one_and_no_wait_is_longer_than_the_deadline():
    members = [Member("127.0.0.1") for _ in range(3)]
    address = members[0].open()
    sent = torch.randn(10_000)

    def vectors() -> list[torch.Tensor]:
        return [sent.clone(), torch.empty(10_000), torch.empty(10_000)]

    for key in range(2):
        received = vectors()
        plan = Plan(key, address, 1, 3, "gloo", deadline_s=10)
        assert send(members, plan, received) == [None] * 3
        assert all(torch.equal(vector, sent) for vector in received)
    assert not dist.is_initialized()

    # A fourth never comes; the group after it has other members, and forms.
    before = time.monotonic()
    ended = send(members, Plan(2, address, 2, 4, "gloo", deadline_s=1), vectors())
    assert time.monotonic() - before < 3
    assert all(error is not None and "not broadcast" in str(error) for error in ended)
    received = vectors()
    assert send(members[:2], Plan(3, address, 3, 2, "gloo", deadline_s=10), received) == [None] * 2
    assert torch.equal(received[1], sent)

    # The second does not take part in the next broadcast of its group.
    before = time.monotonic()
    (error,) = send(members[:1], Plan(4, address, 3, 2, "gloo", deadline_s=1), vectors())
    assert error is not None and time.monotonic() - before < 3
