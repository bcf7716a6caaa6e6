"""What runs on a GPU gives what a CPU gives: the real captures, kernels and copies. Skipped where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from streamrec_dist.data.evidence import EvidenceTable
from streamrec_dist.data.split import split_rows
from streamrec_dist.decode.engine import Engine
from streamrec_dist.materials import arithmetic
from streamrec_dist.rl.rollout import Sampler
from streamrec_dist.stages.annotate import Annotator, ThinkingMeter
from streamrec_dist.stages.decoding import Recommender
from streamrec_dist.stages.pretrain import pretrain
from streamrec_dist.stages.retrieve import retrieve
from streamrec_dist.stages.rl import rl
from streamrec_dist.stages.sft import sft
from streamrec_dist.types import PolicyVersion
from tests.local_ports import MemoryStore, local_context
from tests.test_graphs import assert_same, settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
STAGES = {"retrieve": retrieve, "pretrain": pretrain, "sft": sft, "rl": rl}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sampling", ["free", "trie"])
def test_captured_rollouts_and_annotations_follow_prompts_and_weights(precision, sampling):
    materials = settings(f"stages.rl.sampling={sampling}", f"model.precision={precision}")
    model = materials.new_model().to("cuda").eval()
    engine = Engine(model, arithmetic(materials.config))
    sampler, annotator = Sampler(materials, engine), Annotator(materials, engine, engine)
    plain, other = Sampler(materials, engine), Annotator(materials, engine, engine)
    for kept in (plain, other):
        kept.decode.graphed.captures = False
    for version in range(3):
        for cursor in (0, 100):
            found = sampler.rollout(PolicyVersion(version), cursor, 70)
            assert_same(vars(found), vars(plain.rollout(PolicyVersion(version), cursor, 70)))
        assert_same(vars(annotator.annotate(9, 150, version)), vars(other.annotate(9, 150, version)))
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.05 * torch.randn_like(value))
        engine.refresh()


@pytest.mark.parametrize("sampling", ["free", "trie"])
def test_decoding_is_that_of_a_cpu(sampling):
    materials = settings(f"stages.rl.sampling={sampling}")
    model = materials.new_model().eval()
    rows = split_rows(materials.corpus, "valid")
    found = {}
    for device in ("cpu", "cuda"):
        engine = Engine(model.to(device), arithmetic(materials.config))
        found[device] = {
            "rollouts": vars(Sampler(materials, engine).rollout(PolicyVersion(1), 5, 90)),
            "annotations": vars(Annotator(materials, engine, engine).annotate(0, 120, 1)),
            "thinking": ThinkingMeter(materials, engine).measure(rows),
            "ranks": {
                stack: Recommender(materials, model, stack, device, engine).target_ranks(rows, False)
                for stack in ("thinking", "direct")
            },
        }
    for kind, columns in found["cpu"].items():
        assert_same(found["cuda"][kind], columns)


def test_every_stage_learns_what_it_learns_on_a_cpu():
    materials = settings("model.dropout=0", "stages.retrieve.dropout=0")
    losses: dict[str, dict[str, list[float]]] = {}
    for device in ("cpu", "cuda"):
        store, informed = MemoryStore(), materials
        for name, stage in STAGES.items():
            store.finish_stage(stage(local_context(informed, store, device=device)))
            if name == "retrieve":
                parts = list(store.evidence.values())
                table = EvidenceTable.joined(len(materials.corpus.items), parts)
                informed = replace(materials, evidence=table)
        losses[device] = {
            name: [event.metrics["loss"] for event in store.of_kind("step", name) if "loss" in event.metrics]
            for name in STAGES
        }
    for name, expected in losses["cpu"].items():
        assert len(losses["cuda"][name]) == len(expected) > 0, name
        # Rounding grows from step to step, and a token that falls the other way changes what follows it.
        np.testing.assert_allclose(losses["cuda"][name][:2], expected[:2], rtol=0.02, atol=0.02, err_msg=name)
