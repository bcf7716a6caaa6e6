"""Two gloo ranks give the gradients, and so the weights, of one rank on the joined batch."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from streamrec_dist.baselines.config import ITEM_MODELS
from streamrec_dist.config_file import parse_config
from streamrec_dist.decode.engine import Engine
from streamrec_dist.items.rqvae import train_rqvae
from streamrec_dist.items.tokenizer import TokenizerOptions
from streamrec_dist.model.weights import export_weights
from streamrec_dist.repeatable import compute_repeatably
from streamrec_dist.rl.rewards import reward_report
from streamrec_dist.rl.rollout import Sampler
from streamrec_dist.rl.scoring import Scorer
from streamrec_dist.stages.annotate import Annotator
from streamrec_dist.training.learner import Learner
from streamrec_dist.types import GroupCounts, PolicyVersion
from tests.local_ports import TINY, tiny_materials

# Dropout is drawn per rank, so it is off where ranks are compared with one.
NO_DROPOUT = ["model.dropout=0", "baselines.gru4rec.dropout=0"]
STAGES = ["pretrain", "sft", "rl", "gru4rec"]
#: Those that train on rows and nothing else.
ROW_STAGES = ("pretrain", "gru4rec")


def materials(*overrides: str):
    return tiny_materials(parse_config(TINY, "tiny", [*NO_DROPOUT, *overrides]))


def train(stage: str, rank: int, world_size: int, *overrides: str) -> dict[str, np.ndarray]:
    torch.set_num_threads(1)
    things = materials(*overrides)
    learner = Learner(things, rank, world_size)
    learner.begin(stage, 10, weights=initial_weights(things, stage))
    if stage in ROW_STAGES:
        metrics = learner.train_rows(0, 0, 3)[-1]
    elif stage == "sft":
        model = things.new_model().eval()
        engine = Engine(model)
        learner.annotate([Annotator(things, engine, engine).annotate(0, len(things.rows), 0)])
        metrics = learner.train_rows(0, 0, 3)[-1]
    else:
        model = things.new_model().eval()
        batch = Sampler(things, Engine(model)).rollout(PolicyVersion(0), 0, 16)
        rewards = Scorer(things, model).score(batch)
        assert reward_report(rewards, things.config.stages.rl)["spread/total"] > 0
        groups = np.arange(5)[rank::world_size]  # an odd number: one rank fills up with weight zero
        padded = -(-5 // world_size)
        for _ in range(2):
            counts = GroupCounts(len(groups), padded, 5)
            metrics = learner.train_groups([(batch, rewards, groups)], counts, PolicyVersion(0))
    # Adam hides the scale of the gradients, so their norm is compared as well.
    return {**learner.weights(), "grad_norm": np.array(metrics["grad_norm"])}


def initial_weights(things, stage: str):
    return export_weights(things.new_item_model(stage) if stage in ITEM_MODELS else things.new_model())


def train_tokenizer() -> dict[str, np.ndarray]:
    torch.set_num_threads(1)
    points = torch.randn(90, 12, generator=torch.Generator().manual_seed(0))
    options = TokenizerOptions(levels=3, codes=8, latent=4, hidden=(16,), epochs=4, batch=32, lr=1e-3)
    progress: list[dict] = []
    model = train_rqvae(points, options, progress.append)
    losses = {"recon": np.array([values["recon"] for values in progress])}
    return {name: value.numpy() for name, value in model.state_dict().items()} | losses


def train_on(rank: int, world_size: int) -> dict[str, np.ndarray]:
    """Two batches, and the second once more from a checkpoint of the first."""
    torch.set_num_threads(1)
    learner = Learner(materials("deterministic=true", "stages.pretrain.batch=48"), rank, world_size)
    learner.begin("pretrain", 10)
    learner.train_rows(0, 0, 1)
    saved = learner.checkpoint()
    learner.train_rows(0, 1, 2)
    whole = learner.weights()
    learner.begin("pretrain", 10, checkpoint=saved, step=1)
    learner.train_rows(0, 1, 2)
    again = learner.weights()
    return {
        f"{name}.{kind}": value
        for kind, found in (("whole", whole), ("again", again))
        for name, value in found.items()
    }


def one_rank(rank: int, port: int, work: Callable[..., Any], ranks: int, repeatable: bool, results) -> None:
    if repeatable:
        compute_repeatably()
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    results.put((rank, work(rank, ranks)))
    dist.barrier()
    dist.destroy_process_group()


def on_two_ranks(stage: str, *overrides: str, repeatable: bool = False) -> dict[int, dict[str, np.ndarray]]:
    if stage == "tokenize":
        return on_ranks(2, tokenizer_of_rank, repeatable)
    return on_ranks(2, partial(train_stage, stage, overrides), repeatable)


def tokenizer_of_rank(rank: int, world_size: int) -> dict[str, np.ndarray]:
    return train_tokenizer()


def train_stage(stage: str, overrides: tuple[str, ...], rank: int, world_size: int) -> dict[str, np.ndarray]:
    return train(stage, rank, world_size, *overrides)


def on_ranks(
    count: int, work: Callable[[int, int], dict[str, np.ndarray]], repeatable: bool = False
) -> dict[int, dict[str, np.ndarray]]:
    """What `work` gives in each of so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    ranks = [
        context.Process(target=one_rank, args=(rank, port, work, count, repeatable, results))
        for rank in range(count)
    ]
    for process in ranks:
        process.start()
    found = dict(results.get() for _ in ranks)
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    return found


def test_two_ranks_train_the_tokenizer_that_one_would():
    found, alone = on_two_ranks("tokenize"), train_tokenizer()
    for name, array in alone.items():
        assert np.array_equal(found[0][name], found[1][name]), name
        np.testing.assert_allclose(found[0][name], array, atol=2e-4, rtol=1e-3, err_msg=name)
    assert alone["recon"][-1] < alone["recon"][0]


# Without and with gradients accumulated over parts of some rows each.
@pytest.mark.parametrize("overrides", [(), ("learners.pass_tokens=60",)], ids=["whole", "parts"])
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_equal_one(stage, overrides):
    found = on_two_ranks(stage, *overrides)
    alone = train(stage, 0, 1)
    moved = 0.0
    start = initial_weights(materials(), stage)
    for name, array in alone.items():
        assert np.array_equal(found[0][name], found[1][name]), name
        np.testing.assert_allclose(found[0][name], array, atol=2e-5, rtol=1e-4, err_msg=name)
        if name == "grad_norm":
            continue
        moved = max(moved, float(np.abs(array - start[name]).max()))
    assert moved > 1e-4


def test_three_ranks_go_on_from_a_checkpoint_with_the_same_bits():
    """Of three numbers the order matters in which they are added."""
    found = on_ranks(3, train_on, repeatable=True)[0]
    names = [name.removesuffix(".whole") for name in found if name.endswith(".whole")]
    assert [
        name for name in names if not np.array_equal(found[f"{name}.whole"], found[f"{name}.again"])
    ] == []
