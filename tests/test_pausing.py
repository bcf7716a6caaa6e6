"""Stages that the user pauses, or asks for a checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from streamrec_dist.config_file import parse_config
from streamrec_dist.stages.pretrain import pretrain
from streamrec_dist.stages.rl import rl
from streamrec_dist.stages.sft import sft
from tests.local_ports import TINY, UNGUIDED, MemoryStore, local_context, tiny_materials


@pytest.fixture(scope="module")
def materials():
    return tiny_materials(parse_config(TINY, "tiny", UNGUIDED))


@pytest.fixture(scope="module")
def trained(materials) -> MemoryStore:
    store = MemoryStore()
    for stage in (pretrain, sft):
        store.finish_stage(stage(local_context(materials, store)))
    return store


def wait_until(happened: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.01)


def steps_of(store: MemoryStore, stage: str) -> list[int]:
    return [event.step for event in store.of_kind("step", stage)]


def test_a_paused_stage_rests_between_two_steps_and_keeps_what_it_is_asked_to(materials, trained) -> None:
    store = MemoryStore(weights=dict(trained.weights))
    context = local_context(materials, store)
    emit = store.emit

    def pause_after_two(*events) -> None:
        emit(*events)
        if steps_of(store, "rl") == [1, 2]:
            context.pausing.set()

    store.emit = pause_after_two  # type: ignore[method-assign]
    loop = threading.Thread(target=rl, args=(context,))
    loop.start()
    wait_until(context.pausing.is_set)
    time.sleep(1.0)
    assert steps_of(store, "rl") == [1, 2] and loop.is_alive()
    assert not store.checkpoints
    context.keeping.set()
    wait_until(lambda: bool(store.checkpoints))
    assert store.checkpoints["rl"][-1].step == 2 and not context.keeping.is_set()
    assert steps_of(store, "rl") == [1, 2], "a checkpoint is no reason to go on"
    context.pausing.clear()
    loop.join(120)
    assert steps_of(store, "rl") == [1, 2, 3, 4, 5, 6]
    assert context.rested_s > 0.9
    third = store.of_kind("step", "rl")[2].metrics["seconds"]
    # The clock of a step stands still while the stage does.
    whole = store.of_kind("step", "rl")[2].t - store.of_kind("step", "rl")[1].t
    assert third < whole - 0.9


def test_who_stops_a_paused_stage_need_not_let_it_go_on_first(materials, trained) -> None:
    context = local_context(materials, MemoryStore(weights=dict(trained.weights)))
    context.pausing.set()
    ended = []

    def run() -> None:
        try:
            pretrain(context)
        except Exception as error:
            ended.append(error)

    loop = threading.Thread(target=run)
    loop.start()
    time.sleep(0.5)
    assert loop.is_alive() and not steps_of(context.store, "pretrain")
    context.stop.set()
    loop.join(60)
    assert "stopped as asked" in str(ended[0])
