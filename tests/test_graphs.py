"""What CUDA graphs ask for, as far as a CPU can show it: static shapes give the same numbers, and nothing waits.

A fake tensor has a shape and no values, so whatever would read one back (an `int`, a mask as index) raises. They are
on torch's `meta` device, and `OneDevice` refuses operations on any other: a copy between host and device inside a
captured function is an error on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from streamrec_dist.config_file import parse_config
from streamrec_dist.data.batches import history_lengths
from streamrec_dist.decode.batched import BUCKETS, BatchedDecode, bucket
from streamrec_dist.decode.beam import beam_search, free_beam_search
from streamrec_dist.decode.candidates import candidate_log_probs, prefix_tree
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.graphs import Graphed
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import sample, think_greedily
from streamrec_dist.model.guide import Guide
from streamrec_dist.rl.rollout import NODES, PROMPTS, Sampler
from streamrec_dist.stages.annotate import Annotator, ThinkingMeter
from streamrec_dist.types import PolicyVersion
from tests.local_ports import TINY, tiny_materials

META = torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Raises AssertionError at an operation that has a tensor of another device than `META`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            assert not isinstance(value, torch.Tensor) or value.device == META, f"{func} on {value.device}"
        return result


class FakeGraphed(Graphed):
    """Runs its function as a capture does: on the shapes of its arguments, which have no values."""

    def __init__(self, function: Callable, mode: FakeTensorMode):
        super().__init__(function, META)
        self.mode = mode
        self.shapes: set[tuple] = set()

    def __call__(self, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        self.shapes.add(tuple(array.shape for array in arrays))
        dtypes = [torch.from_numpy(array).dtype for array in arrays]
        with self.mode, OneDevice(), torch.no_grad():
            fakes = [
                torch.empty(array.shape, dtype=dtype, device=META)
                for array, dtype in zip(arrays, dtypes, strict=True)
            ]
            outputs = self.function(*fakes)
        return {name: np.zeros(value.shape) for name, value in outputs.items()}


def static(decode: BatchedDecode, mode: FakeTensorMode) -> FakeGraphed:
    """Make `decode` do what it does on CUDA, on fake tensors."""
    decode.static, decode.graphed = True, FakeGraphed(decode.graphed.function, mode)
    return decode.graphed


def settings(*overrides: str):
    return tiny_materials(parse_config(TINY, "tiny", ["stages.sft.own_thoughts=0.5", *overrides]))


@pytest.fixture
def mode():
    return FakeTensorMode(allow_non_fake_inputs=True)  # the catalogue's, on `META` as well


def fake_engine(materials, mode: FakeTensorMode, dtype: torch.dtype) -> Engine:
    with mode, META:
        return Engine(materials.new_model().eval(), dtype)


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def dtype(request):
    return request.param


@pytest.mark.parametrize("sampling", ["free", "trie"])
def test_a_rollout_waits_for_nothing(mode, dtype, sampling):
    materials = settings(f"stages.rl.sampling={sampling}")
    engine = fake_engine(materials, mode, dtype)
    sampler = Sampler(materials, engine)
    graphed = static(sampler.decode, mode)
    rows = materials.rows[: 3 * PROMPTS + 5]
    columns = columns_of(sampler, rows)
    rl = materials.config.stages.rl
    assert columns["candidate_logprobs"].shape == (len(rows), rl.group_size, 1 + rl.negatives)
    assert len(graphed.shapes) <= 2 * BUCKETS


def test_annotation_and_its_measures_wait_for_nothing(mode, dtype):
    materials = settings()
    engine = fake_engine(materials, mode, dtype)
    annotator, meter = Annotator(materials, engine, engine), ThinkingMeter(materials, engine)
    static(annotator.decode, mode)
    static(meter.decode, mode)
    assert annotator.annotate(0, 300, 0).thoughts.shape == (300, 2)
    assert meter.measure(materials.rows[:50])["distance"].shape == (50, 3)


@pytest.mark.parametrize("softmax", ["trie", "codes"])
@pytest.mark.parametrize("stack", ["thinking", "direct"])
def test_beam_search_waits_for_nothing(mode, dtype, stack, softmax):
    materials = settings(f"model.softmax={softmax}")
    engine, catalogue = fake_engine(materials, mode, dtype), materials.catalogue.to(META)
    guide = Guide(catalogue, on_trie=softmax == "trie")

    def rank(history: torch.Tensor, banned: torch.Tensor) -> dict[str, torch.Tensor]:
        prompts = engine.read(history, stack, guide)
        thinking = think_greedily(engine, prompts, 2 if stack == "thinking" else 0)
        items, scores = beam_search(thinking.branches, catalogue, 10, banned)
        tokens, _ = free_beam_search(thinking.branches, catalogue.levels, 10)
        return {"items": items, "scores": scores, "invalid": catalogue.item_of_tokens(tokens) < 0}

    history, banned = np.zeros((32, 60), dtype=np.int64), np.zeros((32, 7), dtype=np.int64)
    assert FakeGraphed(rank, mode)(history, banned)["items"].shape == (32, 1, 10)


@pytest.mark.parametrize(
    ("waits", "error"),
    [
        (lambda x: {"x": x[: int(x.max())]}, DataDependentOutputException),
        (lambda x: {"x": x[x > 0]}, DynamicOutputShapeException),
        (lambda x: {"x": x + x.cpu().to(META)}, AssertionError),
        (lambda x: {"x": x + torch.tensor([1]).to(META)}, AssertionError),
        (lambda x: {"x": x[torch.zeros(2, dtype=torch.long)]}, AssertionError),
    ],
)
def test_what_waits_is_found(mode, waits, error):
    with pytest.raises(error):
        FakeGraphed(waits, mode)(np.zeros(3, dtype=np.int64))


@pytest.mark.parametrize("max_history", [1, 3, 20, 50, 1000])
def test_buckets_are_few_and_hold_every_length(max_history):
    buckets = [bucket(items, max_history) for items in range(1, max_history + 1)]
    assert all(held >= items for items, held in enumerate(buckets, start=1))
    assert len(set(buckets)) <= BUCKETS
    assert buckets[-1] == max_history
    assert buckets == sorted(buckets)


def edges(max_history: int) -> list[int]:
    """One item, every bucket's edge and its neighbours, the longest history."""
    held = {bucket(items, max_history) for items in range(1, max_history + 1)}
    near = {edge + step for edge in held for step in (-1, 0, 1)} | {1, max_history}
    return sorted(items for items in near if 1 <= items <= max_history)


@pytest.mark.parametrize("sampling", ["free", "trie"])
@pytest.mark.parametrize("prompts", [1, 3, PROMPTS + 1])
def test_static_shapes_change_no_number(sampling, prompts):
    materials = settings(f"stages.rl.sampling={sampling}", "data.max_history=10")
    engine = Engine(materials.new_model().eval())
    plain, padded = Sampler(materials, engine), Sampler(materials, engine)
    padded.decode.static = True
    lengths = history_lengths(materials.corpus, materials.rows)
    for items in edges(10):
        of_that_length = np.flatnonzero(lengths == items)
        assert len(of_that_length)
        rows = materials.rows[np.resize(of_that_length, prompts)]
        assert_same(columns_of(padded, rows), columns_of(plain, rows))


def columns_of(sampler: Sampler, rows: np.ndarray) -> dict[str, np.ndarray]:
    return sampler.decode(rows, lambda numbers: sampler._arguments(rows[numbers], numbers))


def test_static_shapes_change_no_unit_and_no_annotation():
    materials = settings()
    engine = Engine(materials.new_model().eval())
    plain, padded = Sampler(materials, engine), Sampler(materials, engine)
    padded.decode.static = True
    unit, same = (vars(sampler.rollout(PolicyVersion(3), 40, 150)) for sampler in (padded, plain))
    assert_same(unit, same)
    annotator, other = Annotator(materials, engine, engine), Annotator(materials, engine, engine)
    other.decode.static = True
    assert_same(vars(other.annotate(5, 170, 1)), vars(annotator.annotate(5, 170, 1)))
    meter, of_static = ThinkingMeter(materials, engine), ThinkingMeter(materials, engine)
    of_static.decode.static = True
    assert_same(of_static.measure(materials.rows[:70]), meter.measure(materials.rows[:70]))


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            np.testing.assert_allclose(found[name], value, atol=1e-4, rtol=1e-4, err_msg=name)
        else:
            assert np.array_equal(found[name], value), name


def test_nodes_that_no_candidate_has_change_no_score():
    materials = settings("model.softmax=codes")
    engine = Engine(materials.new_model().eval())
    items = np.random.default_rng(0).integers(0, materials.corpus.n_items, (5, 9))
    candidates = torch.from_numpy(materials.corpus.item_tokens(items))
    uniforms = torch.from_numpy(rollout_uniforms(1, np.arange(5), 3, 5))
    history = torch.from_numpy(materials.corpus.item_tokens(items[:, :4])).flatten(1)
    branches = sample(engine, engine.read(history), uniforms, 2).thinking.branches
    tree = prefix_tree(candidates)
    padded = tree.padded(NODES)
    assert padded.tokens.shape[1] % NODES == 0 and padded.tokens.shape[1] > tree.tokens.shape[1]
    expected = candidate_log_probs(branches, candidates, [tree])
    for trees in ([padded], padded.chunks(2)):
        found = candidate_log_probs(branches, candidates, trees)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
