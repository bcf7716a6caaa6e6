"""Results as the report reads them: checked, whoever wrote the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from streamrec_dist.config import Config
from streamrec_dist.ranks import load_ranks
from streamrec_dist.results import results_of
from streamrec_dist.rundir import RunDir
from streamrec_dist.stages.evaluate import record
from tests.test_ranks import by_time, judged


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path, "demo", Config())
    ds = by_time()
    record(made, "rl-test", judged(ds), judged(ds, seed=2), None)
    return made


def changed(run: RunDir, **values: Any) -> None:
    path = run.path / "results" / "rl-test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_result_is_read_as_it_was_written(run: RunDir) -> None:
    (result,), notes = results_of(run).found, results_of(run).notes
    body = json.loads((run.path / "results" / "rl-test.json").read_text())
    assert notes == [] and (result.name, result.stage, result.split) == ("rl-test", "rl", "test")
    assert result.measures["ndcg@10"].value == body["ndcg@10"]
    assert list(result.measures["mrr@20"].interval) == body["mrr@20_ci"]
    assert result.counting["ndcg@10"].value == body["counting_ndcg@10"]
    group = result.by["history"]["5-9"]
    assert (group.targets, group.ndcg) == (
        body["by"]["history"]["5-9"]["targets"],
        body["by"]["history"]["5-9"]["ndcg@10"],
    )
    assert result.setting == ("test", False, load_ranks(run.ranks_path("rl-test")).n_users, body["targets"])


def test_files_that_are_no_results_are_none_and_damaged_ones_are_told_of(run: RunDir) -> None:
    (run.path / "results" / "demo.json").write_text("{}")
    (run.path / "results" / "rl-valid.json").write_text("{")
    run.ranks_path("rl-valid").touch()
    found = results_of(run)
    assert [result.name for result in found.found] == ["rl-test"]
    (note,) = found.notes
    assert "rl-valid.json" in note and "evaluate again" in note


@pytest.mark.parametrize(
    "values",
    [
        {"ndcg@10": 7.0},
        {"ndcg@10": None},
        {"ndcg@10_ci": [0.1]},
        {"ndcg@10_ci": "x"},
        {"split": "train"},
        {"users": -1},
        {"counting": []},
        {"by": {"history": {"1-4": {"targets": "many"}}}},
        {"decoding": {"thoughts": "loud", "samples": None, "beam": 3}},
    ],
)
def test_nonsense_is_told_of(run: RunDir, values: dict[str, Any]) -> None:
    changed(run, **values)
    found = results_of(run)
    assert found.found == [] and len(found.notes) == 1 and "rl-test.json" in found.notes[0]
