"""How large a run gets, before it runs: parameters, memory of a process, optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from streamrec_dist.config import Config
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.split import last_rows_behind, training_rows
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.training.learner import steps_per_epoch

#: Resident bytes of a worker process with torch and nothing else (Linux, CPU wheel of torch 2.13).
PROCESS_BYTES = 450 * 2**20
#: Of a process that computes on a GPU, the context on the device.
CONTEXT_BYTES = 500 * 2**20
#: Bytes that a layer keeps of one position for the backward pass: per dimension (inputs of matrix products,
#: activations, norms), and per head and position that it attends to. With these two, learners of Beauty's plain
#: decoders come out at .9 GiB, where 1.1 were resident.
KEPT_PER_DIM, KEPT_PER_PAIR = 68, 12
OPTIMISER_STATES = 2


@dataclass(frozen=True)
class Memory:
    """Estimated bytes of one process: in all, and of these on its GPU where it has one."""

    host: int
    device: int


def parameters(config: Config) -> int:
    """Parameters of the recommender, both decoders. Nothing is allocated."""
    with torch.device("meta"):
        model = StreamRec(config)
    return sum(value.numel() for value in model.parameters())


def learner_memory(config: Config, stage: str) -> Memory:
    """Of one learner rank: weights, gradients, both moments of Adam, what is published, and what a pass keeps."""
    weights = 4 * parameters(config)
    model, items, sft = config.model, config.items, config.stages.sft
    if stage == "rl":
        rows = math.ceil(config.stages.rl.prompts * config.stages.rl.group_size / config.learners.world_size)
        written = rows * (sft.thoughts + items.levels)
        read = math.ceil(rows / config.stages.rl.group_size) * config.data.max_history * items.levels
    else:
        rows = (
            math.ceil(config.trained(stage).batch / config.learners.world_size) if stage != "tokenize" else 0
        )
        written = 2 * rows * (sft.thoughts + items.levels)
        read = rows * config.data.max_history * items.levels
    if config.learners.pass_tokens:
        share = min(1.0, config.learners.pass_tokens / max(read, 1))
        read, written = int(read * share), int(written * share)
    vocabulary = items.levels * items.codes
    seen = config.data.max_history * items.levels
    per_position = KEPT_PER_DIM * model.d_model + KEPT_PER_PAIR * model.heads * seen
    kept = model.layers * per_position * (read + written) + 8 * vocabulary * written
    held = weights * (2 + OPTIMISER_STATES) + kept
    return Memory(PROCESS_BYTES + held + weights, held + CONTEXT_BYTES)


def actor_memory(config: Config, role: str) -> Memory:
    """Of one replica: the weights as modules and as the engine's matrices, the frozen decoder, and caches."""
    weights = 4 * parameters(config)
    model, items, thoughts = config.model, config.items, config.stages.sft.thoughts
    rows = {
        "rollout": 64 * config.stages.rl.group_size,
        "annotate": config.stages.sft.annotate_batch,
        "evaluate": config.stages.evaluate.batch * config.stages.evaluate.beam,
        "reward": 64,
    }.get(role, 0)
    length = thoughts + items.levels + config.data.max_history * items.levels / 8
    caches = int(8 * model.layers * rows * length * model.heads * model.d_head)
    copies = {"reward": 2, "annotate": 4, "embed": 0}.get(role, 2)
    held = copies * weights + caches + 4 * rows * items.levels * items.codes
    return Memory(PROCESS_BYTES + held, held + CONTEXT_BYTES)


def stage_steps(config: Config, dataset: Dataset) -> dict[str, int]:
    """Optimizer steps of each stage, about: patience may end it sooner, and evidence says what stage 3 keeps."""
    rows = training_rows(dataset)
    kept = 0 if config.stages.rl.rows == "all" else last_rows_behind(rows)[1]
    supervised, stages = len(rows) - kept, config.stages
    folds = stages.retrieve.folds
    others = sum(
        steps_per_epoch(len(rows) * (folds - 1) // folds, stages.retrieve.batch) for _ in range(folds)
    )
    retrieve = steps_per_epoch(len(rows), stages.retrieve.batch)
    per_round = steps_per_epoch(supervised, stages.sft.batch) * stages.sft.epochs
    return {
        "tokenize": stages.tokenize.epochs * math.ceil(dataset.n_items / stages.tokenize.batch),
        "retrieve": stages.retrieve.epochs * (retrieve + others),
        "pretrain": stages.pretrain.epochs * steps_per_epoch(supervised, stages.pretrain.batch),
        "sft": stages.sft.rounds * per_round,
        "rl": stages.rl.steps,
    }
