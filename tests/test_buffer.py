"""Admission by capacity, batches in cursor order, and the dealing of groups to ranks."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec_dist.errors import RunError
from streamrec_dist.rl.buffer import Buffer, ScoredUnit, Unit, deal
from streamrec_dist.rl.rollout import prompt_rows
from streamrec_dist.types import PolicyVersion


def scored(unit: Unit, version: int = 0, signal=None) -> ScoredUnit:
    signal = np.ones(unit.count, dtype=bool) if signal is None else np.array(signal)
    return ScoredUnit(unit, PolicyVersion(version), signal, f"rollouts {unit.cursor}", "rewards")


def fill(buffer: Buffer, version: int) -> list[Unit]:
    units = []
    while (unit := buffer.start_unit(PolicyVersion(version))) is not None:
        units.append(unit)
    return units


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_no_more_is_started_than_can_be_consumed_in_time(staleness):
    buffer = Buffer(batch=64, max_staleness=staleness)
    for version in range(4):
        fill(buffer, version)
        assert buffer.cursor == (staleness + version + 1) * 64


def test_units_are_shared_among_workers_and_do_not_straddle_batches():
    buffer = Buffer(batch=100, max_staleness=0)
    buffer.share_among(3)
    assert [unit.count for unit in fill(buffer, 0)] == [34, 34, 32]
    sizes = []
    for workers in (1, 8, 64):
        buffer.share_among(workers)
        sizes.append(buffer.unit)
    assert sizes == [100, 13, 4]
    assert Buffer(batch=20, max_staleness=0).unit == 16
    assert Buffer(batch=8, max_staleness=0).unit == 8


def test_work_that_takes_no_time_is_not_cut_up():
    buffer = Buffer(batch=128, max_staleness=0)
    sizes = {}
    for prompt_s in (0.0, 0.0005, 0.001, 0.01, float("inf")):
        buffer.share_among(8, prompt_s)
        sizes[prompt_s] = buffer.unit
    assert sizes == {0.0: 128, 0.0005: 100, 0.001: 50, 0.01: 16, float("inf"): 16}


def test_units_are_longer_where_one_loop_calls_many_workers():
    buffer = Buffer(batch=4096, max_staleness=0)
    sizes = []
    for workers in (8, 16, 64):
        buffer.share_among(workers, prompt_s=0.0001)
        sizes.append(buffer.unit)
    assert sizes == [512, 960, 3840]


def test_a_batch_is_complete_or_not_given():
    buffer = Buffer(batch=32, max_staleness=1)
    units = fill(buffer, 0)
    buffer.add(scored(units[1]))
    buffer.add(scored(units[2]))
    assert buffer.take_batch(PolicyVersion(0)) is None
    buffer.add(scored(units[0]))
    taken = buffer.take_batch(PolicyVersion(0))
    assert [unit.unit.cursor for unit in taken] == [0, 16]
    assert buffer.buffered == 16
    assert buffer.take_batch(PolicyVersion(1)) is None


def test_what_is_too_stale_or_comes_twice_is_an_error():
    buffer = Buffer(batch=16, max_staleness=0)
    unit = fill(buffer, 0)[0]
    buffer.add(scored(unit))
    with pytest.raises(RunError, match="scored twice"):
        buffer.add(scored(unit))
    with pytest.raises(RunError, match="more than 0 before version 1"):
        buffer.take_batch(PolicyVersion(1))


def test_groups_with_signal_are_dealt_evenly():
    units = [
        scored(Unit(0, 4), signal=[True, False, True, True]),
        scored(Unit(4, 3), signal=[False, True, True]),
    ]
    hands = deal(units, 2)
    sizes = [sum(len(groups) for _, groups in hand) for hand in hands]
    assert sizes == [3, 2]
    dealt = sorted(
        (unit.unit.cursor, int(group)) for hand in hands for unit, groups in hand for group in groups
    )
    assert dealt == [(0, 0), (0, 2), (0, 3), (4, 1), (4, 2)]


def test_every_pass_visits_every_row_once_in_a_new_order():
    whole = prompt_rows(50, seed=3, cursor=0, count=100)
    assert sorted(whole[:50]) == list(range(50)) == sorted(whole[50:])
    assert whole[:50].tolist() != whole[50:].tolist()
    assert prompt_rows(50, 3, 37, 30).tolist() == whole[37:67].tolist()
