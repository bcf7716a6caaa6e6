"""Capture and replay, with CUDA's graphs stood in for by a recorder of torch operations on the CPU.

Like a graph, a recording runs no Python when it is replayed: the same operations on the same memory. What a captured
function must not depend on (a new engine, another Python number) would show as numbers of the first call.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from streamrec_dist.config_file import parse_config
from streamrec_dist.decode import graphs
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.graphs import Graphed
from streamrec_dist.rl.rollout import Sampler
from streamrec_dist.stages.annotate import Annotator
from streamrec_dist.types import PolicyVersion
from tests.local_ports import TINY, tiny_materials
from tests.test_graphs import assert_same


def storages(tree: object) -> dict[int, torch.Tensor]:
    leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return {leaf.untyped_storage().data_ptr(): leaf for leaf in leaves}


class Recording:
    """Stands in for torch.cuda.CUDAGraph."""

    captured = 0

    def __init__(self):
        self.operations: list[tuple] = []

    def replay(self) -> None:
        for func, args, kwargs, result in self.operations:
            again = func(*args, **kwargs)
            given = storages((args, kwargs))
            for new, old in zip(tree_leaves(again), tree_leaves(result), strict=True):
                # Views and results written in place are the recorded memory already.
                if old.untyped_storage().data_ptr() not in given:
                    old.copy_(new)


class Recorder(TorchDispatchMode):
    """Stands in for torch.cuda.graph. Unlike a capture it computes as well."""

    def __init__(self, recording: Recording, pool: object, stream: object, capture_error_mode: str):
        super().__init__()
        self.recording = recording
        Recording.captured += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.recording.operations.append((func, args, kwargs or {}, result))
        return result


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.fixture
def cuda(monkeypatch):
    for name, value in {
        "CUDAGraph": Recording,
        "graph": Recorder,
        "Stream": lambda device: Stream(),
        "current_stream": lambda device: Stream(),
        "stream": lambda stream: nullcontext(),
        "graph_pool_handle": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(graphs, "to_host", lambda value: value.numpy().copy())
    Recording.captured = 0


def captures(function) -> Graphed:
    """A Graphed that believes it is on CUDA, in the host's memory."""
    graphed = Graphed(function, torch.device("cuda"))
    graphed.device = torch.device("cpu")
    return graphed


def test_a_function_is_captured_once_a_shape_and_replayed_on_new_values(cuda):
    calls = []

    def function(x: torch.Tensor) -> dict[str, torch.Tensor]:
        calls.append(x.shape)
        return {"twice": 2 * x, "sum": x.sum()}

    graphed = captures(function)
    arrays = [np.full(size, value, dtype=np.float32) for value in (1, 2, 3) for size in (2, 5)]
    results = [graphed(array) for array in arrays]
    for array, result in zip(arrays, results, strict=True):
        assert np.array_equal(result["twice"], 2 * array) and result["sum"] == array.sum()
    graphed(np.zeros(2, dtype=np.int64))
    assert Recording.captured == 3
    assert len(calls) == 3 * (graphs.WARM_UP + 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sampling", ["free", "trie"])
def test_replayed_rollouts_and_annotations_follow_prompts_and_weights(cuda, precision, sampling):
    overrides = [
        f"stages.rl.sampling={sampling}",
        f"model.precision={precision}",
        "stages.sft.own_thoughts=0.5",
    ]
    materials = tiny_materials(parse_config(TINY, "tiny", overrides))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = materials.new_model().eval()
    engine = Engine(model, dtype)
    sampler, annotator = Sampler(materials, engine), Annotator(materials, engine, engine)
    for kept in (sampler, annotator):
        kept.decode.graphed, kept.decode.static = captures(kept._decode), True
    captured = []
    for version in range(3):
        fresh = Engine(model, dtype)
        for cursor in (0, 100):
            found = sampler.rollout(PolicyVersion(version), cursor, 70)
            expected = Sampler(materials, fresh)
            expected.decode.static = True
            assert_same(vars(found), vars(expected.rollout(PolicyVersion(version), cursor, 70)))
        expected = Annotator(materials, fresh, fresh)
        expected.decode.static = True
        assert_same(vars(annotator.annotate(9, 150, version)), vars(expected.annotate(9, 150, version)))
        captured.append(Recording.captured)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.05 * torch.randn_like(value))
        engine.refresh()
    assert len(set(captured)) == 1
