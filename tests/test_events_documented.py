"""docs/events.md has every metric of every event, and none that there is not."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.config_file import parse_config
from streamrec_dist.data.evidence import EvidenceTable
from streamrec_dist.events import SCHEMA, WORKER_FIELDS, Event
from streamrec_dist.rundir import STAGES
from streamrec_dist.stages.baseline import train_baseline
from streamrec_dist.stages.pretrain import pretrain
from streamrec_dist.stages.retrieve import retrieve
from streamrec_dist.stages.rl import rl
from streamrec_dist.stages.sft import sft
from streamrec_dist.stages.tokenize import tokenize
from tests.conftest import REPO
from tests.event_docs import documented, missing, unknown
from tests.local_ports import TINY, MemoryStore, local_context, tiny_materials

#: Epochs that say what there is to say.
SHORT = ("stages.retrieve.epochs=1", "stages.pretrain.epochs=1", "stages.sft.rounds=1", "stages.rl.steps=2")


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    """After all stages and baselines of a tiny run, each of which ends with an event as the controller emits it."""
    config = parse_config(TINY, "tiny", [*SHORT, "stages.sft.own_thoughts=0.5", "stages.rl.eval_every=2"])
    materials, store = tiny_materials(config, users=40, items=60), MemoryStore()

    def tell(progress: dict) -> None:
        metrics = {name: progress[name] for name in ("loss", "recon", "used_codes")}
        store.emit(Event("step", "tokenize", progress["epoch"], progress["epochs"], metrics=metrics))

    settings = parse_config(TINY, "tiny", ["stages.tokenize.epochs=2", "stages.tokenize.hidden=[8]"])
    vectors = np.random.default_rng(0).normal(size=(materials.corpus.n_items, 12)).astype(np.float32)
    report = tokenize(vectors, materials.corpus.items, materials.corpus.offsets, settings, tell).report
    store.emit(Event("stage", "tokenize", state="done", metrics=report))
    for stage in (retrieve, pretrain, sft, rl):
        store.finish_stage(stage(local_context(materials, store)))
        if stage is retrieve:
            parts = list(store.evidence.values())
            evidence = EvidenceTable.joined(len(materials.corpus.items), parts)
            materials = replace(materials, evidence=evidence)
    for name in TRAINED:
        store.finish_stage(train_baseline(local_context(materials, store), name))
    for name, result in store.results.items():
        store.emit(Event("stage", name, state="done", metrics=result.metrics | {"seconds": result.seconds}))
    return store


def test_every_metric_is_documented(store: MemoryStore) -> None:
    assert {event.stage for event in store.events if event.kind == "step"} == {*STAGES, *TRAINED}
    assert {event.kind for event in store.events} >= {"step", "eval", "round", "stage"}
    assert unknown(store.events) == set()


def test_every_documented_metric_is_there(store: MemoryStore) -> None:
    assert missing(store.events) == set()
    # Each table is about something that was looked at here, or needs more than one process.
    seen = {(event.kind, event.stage) for event in store.events}
    assert set(documented()) - seen == {("run", ""), ("workers", "")}


def test_what_is_not_documented_would_be_found(store: MemoryStore) -> None:
    stranger = Event("step", "rl", metrics={"unheard_of": 1.0, "reward/format": 0.0, "rewards/format": 0.0})
    assert unknown([stranger]) == {("step", "rl", "unheard_of"), ("step", "rl", "rewards/format")}
    assert unknown([Event("step", "pretrain", metrics={"kl": 1.0})]) == {("step", "pretrain", "kl")}
    assert ("eval", "rl", "users") in missing([Event("eval", "rl", metrics={"ndcg@10": 0.5})])


def test_every_field_and_kind_is_documented() -> None:
    text = (REPO / "docs" / "events.md").read_text(encoding="utf-8")
    for name in ("schema", *(one.name for one in fields(Event))):
        assert f"| `{name}` |" in text, name
    assert f"version of this document, {SCHEMA} |" in text
    for name in WORKER_FIELDS:
        assert f"`{name}`" in text.split("### `workers`")[1].split("## ")[0], name
    for kind in ("run", "stage", "step", "round", "eval", "warning", "workers"):
        assert f"| `{kind}` |" in text, kind
