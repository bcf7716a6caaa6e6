"""A trained stage evaluated in this process: what is written, and that it is the ranking of the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.decoding import DecodingOptions
from cli.launch import evaluate_run
from streamrec_dist.comparison import compare
from streamrec_dist.config_file import load_config
from streamrec_dist.data.split import split_rows
from streamrec_dist.errors import DataError
from streamrec_dist.metrics import MEASURES, measure
from streamrec_dist.model.weights import export_weights
from streamrec_dist.ranks import TargetRanks, load_ranks
from streamrec_dist.rundir import RunDir
from streamrec_dist.stages.decoding import Recommender
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.stages.tokenize import Tokenized
from tests.local_ports import UNGUIDED


@pytest.fixture
def run(folder: Path) -> RunDir:
    """A run whose model of stage rl has the weights that it began with."""
    run = RunDir.create(folder / "runs", "demo", load_config(folder / "cluster.yaml", UNGUIDED))
    store, rng = RunStore(run.path), np.random.default_rng(0)
    items = np.arange(store.dataset().n_items)
    keys = rng.permutation(16**3)[: len(items)]
    codes = np.stack([keys // 256, keys // 16 % 16, keys % 16], axis=1).astype(np.int32)
    neighbours = np.stack([(items + place) % len(items) for place in range(1, 9)], axis=1).astype(np.int32)
    store.save_items(Tokenized(neighbours, codes, {"none": np.zeros(1, np.float32)}, {}))
    torch.manual_seed(0)
    for stage in ("pretrain", "rl"):
        run.save_weights(stage, export_weights(store.materials(run.config(), stage).new_model()))
    return run


def evaluated(run: RunDir, stage: str, users: int | None = None, **options) -> dict:
    nothing = DecodingOptions(**options)
    return evaluate_run(run, stage, "test", False, users, False, lambda done, total: None, nothing)


def ranks_of(run: RunDir, name: str) -> TargetRanks:
    return load_ranks(run.ranks_path(name))


def test_a_result_and_its_ranks_are_those_of_the_model(run: RunDir):
    result = evaluated(run, "rl", beam=25)
    written = json.loads((run.path / "results" / "rl-test-greedy-beam25.json").read_text(encoding="utf-8"))
    assert written == result and result["users"] == result["targets"] == 80
    ranks = ranks_of(run, "rl-test-greedy-beam25")
    about = {key: ranks.about[key] for key in ("run", "stage", "split", "masked", "decoding", "depth")}
    assert about == {**{key: result[key] for key in list(about)[:5]}, "depth": 25}
    store = RunStore(run.path)
    config = run.config(["stages.evaluate.beam=25"])
    materials = store.materials(config, "rl")
    model = materials.new_model()
    with torch.no_grad():
        for name, value in store.load_weights("rl").items():
            model.get_parameter(name).copy_(torch.from_numpy(value))
    rows = split_rows(store.dataset(), "test")
    recommender = Recommender(materials, model, "rl")
    assert np.array_equal(ranks.ranks, recommender.target_ranks(rows, False))
    assert 0 < (ranks.ranks > 0).sum() < 80, "the problem has hits and misses"
    for name in MEASURES:
        assert result[name] == pytest.approx(measure(name, ranks.ranks).mean())
    assert result["invalid_beam_share"] == recommender.invalid_beam_share(rows) > 0
    assert result["counting_ndcg@10"] == result["counting"]["ndcg@10"]
    assert set(result["counting"]["by"]) == set(result["by"]) == {"history", "popularity", "cold"}


def test_models_and_baselines_are_compared_on_the_same_users(run: RunDir):
    own = evaluated(run, "direct", users=30)
    evaluated(run, "counting", users=30)
    direct, counting = (ranks_of(run, f"{stage}-test-30users") for stage in ("direct", "counting"))
    found = compare(counting, direct)
    assert found["users"] == 30 == own["users"]
    assert found["measures"]["ndcg@10"]["b"] == pytest.approx(own["ndcg@10"])
    assert found["measures"]["ndcg@10"]["a"] == pytest.approx(own["counting_ndcg@10"])
    assert found["notes"] == [
        "demo:direct ranks 5 items only: a target beyond them counts as missed at every cut"
    ]


def test_a_stage_without_the_evidence_it_is_to_have_says_so(run):
    store = RunStore(run.path)
    with pytest.raises(DataError, match=r"run demo has no evidence.*run stage retrieve first"):
        store.materials(run.config(["model.evidence=8"]), "rl")
    assert store.materials(run.config(["model.evidence=8"]), "tiger").config.model.evidence == 0
