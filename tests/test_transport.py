"""Weights by broadcast with Ray's processes and gloo: the same bits, and what a broken broadcast costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import REPO

pytestmark = pytest.mark.cluster

#: What sampling and a busy machine may add to a deadline.
SLACK_S = 5.0


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What tests/transport_runs.py saw."""
    program = [sys.executable, "-m", "tests.transport_runs"]
    ended = subprocess.run(
        program,
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(next(line for line in ended.stdout.splitlines() if line.startswith("{")))


def test_a_deterministic_run_has_the_same_bits_with_either_transport(seen):
    assert seen["arrays"] > 100 and seen["different"] == []
    assert seen["counts"]["broadcast"] >= 3 and seen["counts"]["failed"] == 0
    # Nobody can name the run's vectors any more, and the learner forgets them.
    assert seen["kept"] == 0 and seen["held"] == []


@pytest.mark.parametrize("what", ["frozen", "frozen_forming", "killed"])
def test_a_replica_that_breaks_a_broadcast_costs_the_others_the_deadline_at_most(seen, what):
    assert seen[what]["seconds"] < seen["deadline"] + SLACK_S
    # The next version has only those that answer, and the one that is back comes in again.
    assert seen[what]["seconds_after"] < SLACK_S
    assert seen[what].get("seconds_thawed", 0) < SLACK_S


def test_a_replica_waits_for_a_group_that_does_not_form(seen):
    """Otherwise the deadline above was never put to the test."""
    assert seen["frozen_forming"]["seconds"] > seen["deadline"] / 2


def test_weights_of_a_dead_learner_are_lost_at_once(seen):
    assert seen["learner_killed"]["error"] == "InputLost"
    assert seen["learner_killed"]["seconds"] < seen["deadline"] + SLACK_S


def test_broken_broadcasts_are_reported_once_and_counted(seen):
    assert len(seen["said"]) == 1 and "object store" in seen["said"][0]
    assert seen["failed"] >= 2
