"""Weights, ids and models of another size are refused in words that name what does not fit and what to do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import T5ForConditionalGeneration

from cli.decoding import DecodingOptions
from cli.launch import evaluate_run, recommend
from streamrec_dist.config_file import load_config, parse_config
from streamrec_dist.errors import DataError
from streamrec_dist.items import id_file
from streamrec_dist.materials import Materials
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.model.convert import from_t5, t5_config, to_t5
from streamrec_dist.model.weights import export_weights, flatten, import_weights, load_vector
from streamrec_dist.rundir import RunDir
from streamrec_dist.stages.decoding import Recommender
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.training.learner import Learner
from tests.local_ports import TINY, tiny_materials


def config_of(*overrides: str):
    return parse_config(TINY, "tiny", overrides)


def model_of(*overrides: str) -> StreamRec:
    return StreamRec(config_of(*overrides))


def refused(match: str):
    return pytest.raises(DataError, match=match)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            "items.codes=8",
            r"embed.weight has shape \(26, 32\), this model needs \(50, 32\), a row a token: 24 codes in all, "
            "not 48; give items.levels and items.codes the values",
        ),
        ("items.levels=4", "64 codes in all, not 48; give items.levels and items.codes the values"),
        (
            "model.d_model=64",
            r"embed.weight has shape \(50, 64\), this model needs \(50, 32\); give the model section",
        ),
        ("model.d_ff=32", r"feed_forward.*has shape \(32, 32\).*; give the model section the values"),
        (
            "model.layers=2",
            r"\.layers\.1\..* is not part of this model; was the checkpoint made with another",
        ),
    ],
)
def test_weights_of_another_model(other, said):
    weights = export_weights(model_of(other))
    with refused(said):
        import_weights(model_of(), weights)
    with refused(said):
        Learner(tiny_materials()).begin("pretrain", 1, weights)
    checkpoint = {f"model.{name}": array for name, array in weights.items()}
    with refused(said):
        Learner(tiny_materials()).begin("pretrain", 1, checkpoint=checkpoint)
    with refused("numbers given to a model of .* in its policy"):
        load_vector(model_of(), flatten(model_of(other)))


def test_weights_that_lack_a_part_leave_the_model_as_it_was():
    weights = export_weights(model_of("seed=9"))
    del weights["heads.state_mlp.wi.bias"]
    model = model_of()
    before = export_weights(model)
    with refused(r"heads\.state_mlp\.wi\.bias is missing from the weights"):
        import_weights(model, weights)
    assert all(np.array_equal(array, before[name]) for name, array in export_weights(model).items())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("relative_attention_num_buckets", 16),
        ("relative_attention_max_distance", 64),
        ("layer_norm_epsilon", 1e-5),
        ("decoder_start_token_id", 0),
    ],
)
def test_a_t5_that_is_told_otherwise(name, value):
    given = t5_config(config_of())
    setattr(given, name, value)
    with refused(f"T5 has {name} {value}, this model is made for"):
        from_t5(T5ForConditionalGeneration(given), 3, 16)


def test_a_t5_of_another_vocabulary():
    with refused("T5 has 50 tokens; 3 levels of 8 codes need 26: give the levels and codes"):
        from_t5(T5ForConditionalGeneration(t5_config(config_of())), 3, 8)


@pytest.mark.parametrize("other", ["items.codes=8", "model.layers=2", "model.d_model=64"])
def test_a_configuration_that_is_not_the_models(other):
    with refused("values these weights were trained with|is missing from the weights"):
        to_t5(model_of(), config_of(other))


@pytest.mark.parametrize(("other", "has"), [("items.codes=8", "3 of 8"), ("items.levels=4", "4 of 16")])
def test_ids_of_another_size(other, has):
    whole = tiny_materials()
    said = f"ids have 3 levels of 16 codes, the {{}} has {has}; give items.levels and items.codes"
    with refused(said.format("configuration")):
        Materials(config_of(other), whole.corpus, whole.neighbours, whole.rows)
    with refused(said.format("model")):
        Recommender(whole, model_of(other), "direct")


@pytest.fixture
def run(folder: Path) -> RunDir:
    """A run of 3 levels of 16 codes, with ids and weights."""
    config = load_config(folder / "cluster.yaml", ["model.evidence=0"])
    run = RunDir.create(folder / "runs", "one", config)
    store = RunStore(run.path)
    save_ids(store, levels=3)
    store.save_weights("sft", export_weights(StreamRec(config)))
    return run


def save_ids(store: RunStore, levels: int) -> None:
    items = np.arange(store.dataset().n_items)
    codes = np.stack([items // 16**level % 16 for level in range(levels)], axis=1)
    neighbours = np.stack([np.roll(items, -shift)[: len(items)] for shift in range(1, 9)], axis=1)
    store.save_items(
        SimpleNamespace(neighbours=neighbours.astype(np.int32), tokenizer={}, codes=codes)  # type: ignore[arg-type]
    )


def evaluate(run: RunDir):
    return evaluate_run(run, "sft", "valid", False, 5, False, lambda done, total: None, DecodingOptions())


def recommend_to_someone(run: RunDir):
    return recommend(run, "u0", None, 3, "sft", DecodingOptions())


def test_a_run_whose_ids_or_weights_are_of_another_size(run: RunDir):
    assert 0 <= evaluate(run)["ndcg@10"] <= 1
    store = RunStore(run.path)

    store.save_weights(
        "sft", export_weights(StreamRec(load_config(run.path / "config.yaml", ["items.codes=8"])))
    )
    for use in (evaluate, recommend_to_someone):
        with refused("24 codes in all, not 48; give items.levels and items.codes the values these weights"):
            use(run)

    save_ids(store, levels=4)
    for use in (evaluate, recommend_to_someone):
        with refused("ids have 4 levels of 16 codes, the configuration has 3 of 16; give items.levels"):
            use(run)


def test_a_run_whose_ids_were_made_with_another_number_of_codes(run: RunDir):
    items = RunStore(run.path).dataset().item_ids
    codes = np.stack(
        [np.arange(len(items)) // 16, np.arange(len(items)) % 16, np.arange(len(items)) % 2], axis=1
    )
    id_file.save_ids(run.items_path / "semantic_ids.parquet", items, codes, 32)
    with refused("ids have 3 levels of 32 codes, the configuration has 3 of 16"):
        evaluate(run)
