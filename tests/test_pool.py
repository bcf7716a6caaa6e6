"""Pools of real actors on a Ray of two cores: what they do when replicas die, freeze, fail and are not enough."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from actors.calls import RayRuntime
from actors.pool import ATTEMPTS, Pool, wait_started
from actors.worker import Worker
from streamrec_dist.config import ActorConfig
from streamrec_dist.errors import DataError, EnvironmentProblem, InputLost, RunError

pytestmark = pytest.mark.cluster
DEADLINE_S = 60.0


class Echo(Worker):
    """Says what it is told, or does itself harm."""

    def __init__(self, wrong: str = ""):
        if wrong:
            raise DataError(wrong)

    @ray.method(num_returns=2)
    def say(self, word: str) -> tuple[str, int]:
        return word, os.getpid()

    def fail(self) -> None:
        raise DataError("no such word")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def nap(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    def read(self, given: Any) -> str:
        return str(given)


class Clock:
    """Time that passes when it is told to, besides."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(num_cpus=2, object_store_memory=2**27, **options)
    yield
    ray.shutdown()
    del os.environ["RAY_AUTH_MODE"]


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[Pool, RayRuntime]]]:
    pools = []

    def started(
        replicas: int = 2,
        minimum: int = 1,
        args: Any = (),
        runtime: RayRuntime | None = None,
        **options: Any,
    ) -> tuple[Pool, RayRuntime]:
        config = ActorConfig(replicas=replicas, minimum=minimum, cpus=options.pop("cpus", 0), gpus=0)
        pool = Pool("rollout", Echo, config, args, **options)
        pools.append(pool)
        runtime = runtime or RayRuntime(options.get("clock", time.monotonic))
        runtime.pools.append(pool)
        return pool, runtime

    yield started
    for pool in pools:
        pool.close()


def until(runtime: RayRuntime, happened: Callable[[], bool]) -> None:
    """Look after the pools until something is so."""
    give_up = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < give_up
        runtime.tend()
        time.sleep(0.05)


def test_calls_of_a_replica_that_dies_are_done_by_others(start) -> None:
    said: list[str] = []
    pool, runtime = start(report=said.append)
    wait_started(runtime.pools)
    until(runtime, lambda: pool.ready == 2)
    victim = pool.members[0]
    naps = [pool.call("nap", 0.3) for _ in range(6)]
    os.kill(victim.place["pid"], signal.SIGKILL)
    pids = {runtime.receipt(nap, "a nap", DEADLINE_S) for nap in naps}
    assert victim.place["pid"] not in pids
    assert pool.lost == 1 and "died; it is replaced" in said[0]
    until(runtime, lambda: pool.ready == 2)


def test_an_idle_replica_that_dies_is_found_with_its_next_call(start) -> None:
    pool, runtime = start(replicas=1)
    wait_started(runtime.pools)
    os.kill(pool.members[0].place["pid"], signal.SIGKILL)
    call = pool.call("say", "hello")
    assert runtime.receipt(call, "a word", DEADLINE_S) == "hello"
    assert ray.get(call.payload) == pool.members[0].place["pid"]


def test_a_frozen_replica_is_replaced_once_its_call_is_overdue(start) -> None:
    clock = Clock()
    pool, runtime = start(clock=clock)
    wait_started(runtime.pools)
    until(runtime, lambda: pool.ready == 2)
    runtime.receipt(pool.call("nap", 0.0), "a nap", DEADLINE_S)
    frozen = pool.members[0].place["pid"]
    os.kill(frozen, signal.SIGSTOP)
    naps = [pool.call("nap", 0.0) for _ in range(4)]
    time.sleep(1)
    pool.tend()
    assert not all(nap.done for nap in naps) and pool.lost == 0
    clock.ahead += 25
    assert frozen not in {runtime.receipt(nap, "a nap", DEADLINE_S) for nap in naps}
    assert pool.lost == 1


def test_one_that_died_unseen_long_ago_is_lost_once(start) -> None:
    clock = Clock()
    pool, runtime = start(clock=clock)
    wait_started(runtime.pools)
    until(runtime, lambda: pool.ready == 2)
    runtime.receipt(pool.call("nap", 0.0), "a nap", DEADLINE_S)
    naps = [pool.call("nap", 1.0) for _ in range(2)]
    os.kill(pool.members[0].place["pid"], signal.SIGKILL)
    time.sleep(1.5)
    clock.ahead += 60
    for nap in naps:
        runtime.receipt(nap, "a nap", DEADLINE_S)
    assert pool.lost == 1


def test_what_nobody_looked_at_and_what_was_dropped_teach_nothing_of_how_long_calls_take(start) -> None:
    clock = Clock()
    pool, runtime = start(replicas=1, clock=clock)
    wait_started(runtime.pools)
    runtime.receipt(pool.call("nap", 0.0), "a nap", DEADLINE_S)
    limit = pool.pace.limit("nap")
    unseen = pool.call("nap", 0.0)
    time.sleep(0.5)
    clock.ahead += 19
    runtime.receipt(unseen, "a nap", DEADLINE_S)
    dropped = pool.call("nap", 3.0)
    pool.forget()
    until(runtime, lambda: not pool.members[0].calls)
    assert dropped.done and pool.pace.limit("nap") == limit


def test_what_a_call_may_take_goes_by_its_units(start) -> None:
    clock = Clock()
    pool, runtime = start(replicas=1, clock=clock)
    wait_started(runtime.pools)
    runtime.receipt(pool.call("nap", 1.0, units=1), "a nap", DEADLINE_S)
    large = pool.call("nap", 2.0, units=40)
    clock.ahead += 100
    runtime.receipt(large, "a nap", DEADLINE_S)
    assert pool.lost == 0


def test_a_call_that_kills_whoever_does_it_ends_the_run(start) -> None:
    pool, runtime = start(replicas=1)
    wait_started(runtime.pools)
    with pytest.raises(RunError, match=f"{ATTEMPTS} rollout actors were lost in the same die"):
        runtime.receipt(pool.call("die"), "a call", DEADLINE_S)


def test_errors_of_ours_are_not_tried_again(start) -> None:
    pool, runtime = start(replicas=1)
    wait_started(runtime.pools)
    with pytest.raises(DataError, match="no such word"):
        runtime.receipt(pool.call("fail"), "a call", DEADLINE_S)
    assert pool.lost == 0
    _, other = start(replicas=1, args=["wrong from the beginning"])
    with pytest.raises(RunError, match=r"could not start: .* wrong from the beginning"):
        until(other, lambda: False)


def test_what_a_call_was_given_may_be_lost(start) -> None:
    pool, runtime = start(replicas=1)
    wait_started(runtime.pools)

    @ray.remote(num_cpus=0)
    class Owner:
        def own(self) -> list[Any]:
            return [ray.put(bytes(2**20))]

    owner = Owner.remote()
    (lost,) = ray.get(owner.own.remote())
    ray.kill(owner)
    with pytest.raises(ray.exceptions.ObjectLostError):
        for _ in range(100):
            ray.get(lost, timeout=1)
            time.sleep(0.1)
    with pytest.raises(InputLost, match="read failed"):
        runtime.receipt(pool.call("read", lost), "a call", DEADLINE_S)
    assert runtime.receipt(pool.call("read", 7), "a call", DEADLINE_S) == "7"


def test_replicas_join_and_leave_as_asked(start) -> None:
    pool, runtime = start(replicas=1)
    wait_started(runtime.pools)
    pool.target = 3
    until(runtime, lambda: pool.ready == 3)
    naps = [pool.call("nap", 0.5) for _ in range(3)]
    pool.target = 1
    pool.tend()
    assert pool.ready == 1 and len(pool.members) == 3, "what is at work leaves when it has done it"
    for nap in naps:
        runtime.receipt(nap, "a nap", DEADLINE_S)
    until(runtime, lambda: len(pool.members) == 1)


def test_fewer_than_the_minimum_may_be_asked_for(start) -> None:
    clock = Clock()
    pool, runtime = start(replicas=2, minimum=2, clock=clock)
    wait_started(runtime.pools)
    pool.target = 1
    until(runtime, lambda: len(pool.members) == 1)
    clock.ahead += 1000
    runtime.tend()
    assert runtime.receipt(pool.call("say", "word"), "a word", DEADLINE_S) == "word"


def test_who_is_needed_gets_the_room_of_those_who_are_not(start) -> None:
    clock = Clock()
    many, runtime = start(replicas=8, cpus=0.5, clock=clock)
    needed, _ = start(replicas=1, cpus=0.5, clock=clock, runtime=runtime)
    wait_started(runtime.pools)
    until(runtime, lambda: many.ready == 3)
    assert sum(not one.ready for one in many.members) == 5, "they wait for room"
    # One that waits for room is given it before the one that takes the place of what died.
    os.kill(needed.members[0].place["pid"], signal.SIGKILL)
    until(runtime, lambda: many.ready == 4)
    call = needed.call("say", "hello")
    until(runtime, lambda: needed.ready == 0)
    assert not many.filling
    for _ in range(2):
        clock.ahead += 11
        runtime.tend()
    assert runtime.receipt(call, "a word", DEADLINE_S) == "hello"
    until(runtime, lambda: many.ready == 3 and many.filling)


def test_replicas_beyond_the_room_wait_and_those_below_the_minimum_end_the_run(start) -> None:
    pool, runtime = start(replicas=3, cpus=1)
    wait_started(runtime.pools)
    until(runtime, lambda: pool.ready == 2)
    assert [member["state"] for member in pool.state()["replicas"]].count("starting") == 1
    assert runtime.receipt(pool.call("say", "word"), "a word", DEADLINE_S) == "word"
    pool.close()
    clock = Clock()
    pool, runtime = start(replicas=3, minimum=3, cpus=1, clock=clock, patience_s=100)
    until(runtime, lambda: pool.ready == 2)
    clock.ahead += 101
    with pytest.raises(EnvironmentProblem, match=r"2 rollout actors are up, actors.rollout.minimum is 3"):
        pool.tend()
