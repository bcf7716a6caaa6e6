"""What the demo calls learned: each of its three checks can fail it alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.demo import _judge
from streamrec_dist.config import Config
from streamrec_dist.events import Event, EventLog
from streamrec_dist.rundir import RunDir, StageResult


def judged(tmp_path: Path, direct_low: float, nll_last: float, reward_last: float) -> int:
    run = RunDir.create(tmp_path, "demo", Config())
    run.finish_stage(StageResult("sft", 1.0, 1, {"sampled_nll_first": 10.0, "sampled_nll_last": nll_last}))
    rewards = [-1.0, -1.0, -0.5, -0.5, -0.5, -0.5, -0.5, -0.5, reward_last, reward_last]
    EventLog(run.events_path).append(
        [
            Event("step", "rl", step=step, total=10, metrics={"reward/total": reward})
            for step, reward in enumerate(rewards, start=1)
        ]
    )
    results = {
        "direct": {"recall@10": 0.1, "recall@10_ci": [direct_low, 0.12]},
        "popularity": {"recall@10": 0.05, "recall@10_ci": [0.04, 0.06]},
    }
    return _judge(run, results)


@pytest.mark.parametrize(
    ("direct_low", "nll_last", "reward_last", "code"),
    [(0.08, 9.0, -0.2, 0), (0.05, 9.0, -0.2, 1), (0.08, 10.5, -0.2, 1), (0.08, 9.0, -1.1, 1)],
)
def test_the_verdict(
    tmp_path: Path, direct_low: float, nll_last: float, reward_last: float, code: int
) -> None:
    assert judged(tmp_path, direct_low, nll_last, reward_last) == code
