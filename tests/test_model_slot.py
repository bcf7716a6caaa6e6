"""A worker's model and engine over the versions of its weights."""

from __future__ import annotations

import numpy as np
import torch

from actors.model_slot import ModelSlot
from streamrec_dist.decode.engine import Engine
from streamrec_dist.model.weights import flatten
from streamrec_dist.rl.rollout import Sampler
from streamrec_dist.types import PolicyVersion
from tests.local_ports import tiny_materials


def test_one_engine_serves_every_version():
    materials = tiny_materials()
    slot = ModelSlot(materials, "cpu")
    engine, sampler = slot.engine, Sampler(materials, slot.engine)
    other = materials.new_model().eval()
    seen = []
    for version in (PolicyVersion(1), PolicyVersion(2), PolicyVersion(2)):
        if version not in [batch.version for batch in seen]:
            with torch.no_grad():
                for value in other.parameters():
                    value.add_(0.1 * torch.randn_like(value))
            vector = flatten(other)
        slot.adopt(version, vector)
        seen.append(sampler.rollout(version, 0, 20))
        fresh = Sampler(materials, Engine(other)).rollout(version, 0, 20)
        assert all(np.array_equal(value, getattr(fresh, name)) for name, value in vars(seen[-1]).items())
    assert slot.engine is engine
    assert not np.array_equal(seen[0].logprobs, seen[1].logprobs)


def test_vectors_are_adopted_as_arrays_that_are_read_only_and_as_tensors(recwarn):
    materials = tiny_materials()
    vector = flatten(materials.new_model())
    vector.flags.writeable = False  # as those from the object store are
    for version, given in enumerate((vector, torch.tensor(vector))):
        slot = ModelSlot(materials, "cpu")
        slot.adopt(PolicyVersion(version), given)
        assert np.array_equal(flatten(slot.model), vector)
    assert not recwarn.list
