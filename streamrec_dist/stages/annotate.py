"""Stage 2's data: thoughts from iterative inference (section 2.3.1), and how well they lead to the target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamrec_dist.data.batches import history_lengths, history_tokens, in_length_batches, targets
from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.engine import Engine, Prompts
from streamrec_dist.decode.likelihood import direct_log_probs, item_log_probs
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import Thinking, sample_thoughts, think
from streamrec_dist.materials import Materials, arithmetic
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.model.thinking import nearest_tokens, unit_rms
from streamrec_dist.types import Annotation

#: Rows decoded together: enough to fill the matrix products, few enough to be of one length.
BATCH = 128


@dataclass(frozen=True)
class Inference:
    """Iterative inference of some rows: the thoughts, and the distance of s_0 .. s_l to the target."""

    thinking: Thinking
    distances: Tensor  # float32 [P, l + 1], rms of n(t) - n(s_i)


@torch.no_grad()
def iterative_inference(
    engine: Engine, prompts: Prompts, first: Tensor, target: Tensor, steps: int
) -> Inference:
    """Eq. 12 and 13: at each step the code token nearest to the residual between target and state.

    first: d_0 [P, d]; target: t [P, d]. The decoder reads each chosen token and the state is updated from the
    sum of its hidden states.
    """
    heads, table = engine.model.heads, engine.model.code_table
    hidden = [first.new_zeros((len(first), 0, first.shape[-1]))]

    def choose(branches: Branches, step: int) -> Tensor:
        if step > 0:
            hidden.append(branches.hidden)
        state = heads.states(first, torch.cat(hidden, dim=1))[:, -1:]
        return nearest_tokens(heads.residuals(target, state), table)

    thinking = think(Branches.start(engine, prompts, steps), steps, choose)
    states = heads.states(first, thinking.hidden[:, 0, 1:])
    gaps = unit_rms(target).unsqueeze(1) - unit_rms(states)
    return Inference(thinking, gaps.pow(2).mean(dim=-1).sqrt())


@torch.no_grad()
def annotate_rows(
    materials: Materials, model: StreamRec, reference: StreamRec, first: int, last: int, round_number: int
) -> Annotation:
    """Annotate training rows first..last with the current model; `reference` is pi_ref, frozen after stage 1.

    The dispreferred item of each row is drawn from the target's text neighbours by (seed, round, row).
    """
    lengths = history_lengths(materials.corpus, materials.rows[first:last])
    dtype = arithmetic(materials.config)
    engines = Engine(model, dtype), Engine(reference, dtype)
    columns = in_length_batches(
        lengths, BATCH, lambda numbers: _annotate(materials, *engines, first + numbers, round_number)
    )
    return Annotation(first=first, **columns)


def _annotate(
    materials: Materials, engine: Engine, reference: Engine, numbers: np.ndarray, round_number: int
) -> dict[str, np.ndarray]:
    """The columns of an Annotation for training rows `numbers` int64 [n], which are decoded together."""
    config = materials.config
    corpus, steps = materials.corpus, config.stages.sft.thoughts
    device = engine.device
    rows = materials.rows[numbers]
    items = targets(corpus, rows)
    draws = rollout_uniforms(config.seed + round_number * 7919, numbers, 1, steps + 2)[:, 0]
    neighbours = materials.neighbours[items]
    negatives = neighbours[np.arange(len(rows)), (draws[:, 0] * neighbours.shape[1]).astype(int)].astype(
        np.int64
    )
    own = draws[:, 1] < config.stages.sft.own_thoughts

    history = torch.from_numpy(history_tokens(corpus, rows)[0]).to(device)
    target_tokens = torch.from_numpy(corpus.item_tokens(items)).to(device)
    pair = torch.stack([target_tokens, torch.from_numpy(corpus.item_tokens(negatives)).to(device)], dim=1)
    states, mask = engine.encode(history)
    prompts = engine.prompts(states, mask)
    first = engine.model.history_state(states, mask)
    target = engine.model.item_states(target_tokens)
    thoughts = iterative_inference(engine, prompts, first, target, steps).thinking.tokens[:, 0]
    if own.any():
        uniforms = torch.from_numpy(draws[:, None, 2:]).to(device)
        sampled = sample_thoughts(engine, prompts, uniforms).tokens[:, 0]
        thoughts = torch.where(torch.from_numpy(own).to(device)[:, None], sampled, thoughts)
    log_probs = direct_log_probs(reference, history, pair).cpu().numpy()
    return {
        "thoughts": thoughts.cpu().numpy().astype(np.int32),
        "own": own,
        "negatives": negatives,
        "reference_target": log_probs[:, 0],
        "reference_negative": log_probs[:, 1],
    }


@torch.no_grad()
def measure_thinking(materials: Materials, model: StreamRec, rows: np.ndarray) -> dict[str, np.ndarray]:
    """How the model thinks on rows int64 [n, 2], a value a row (means are taken by the caller):

    gold_nll, sampled_nll: the target's negative log-likelihood after annotated and after sampled thoughts, whose
    difference is the leak; distance [n, l + 1] of s_i to the target by step; distinct: distinct thoughts;
    target_share: share of thoughts that are codes of the target.
    """
    engine = Engine(model, arithmetic(materials.config))
    return in_length_batches(
        history_lengths(materials.corpus, rows),
        BATCH,
        lambda numbers: _measure_thinking(materials, engine, rows[numbers]),
    )


def _measure_thinking(materials: Materials, engine: Engine, rows: np.ndarray) -> dict[str, np.ndarray]:
    config, corpus = materials.config, materials.corpus
    steps, model = config.stages.sft.thoughts, engine.model
    history = torch.from_numpy(history_tokens(corpus, rows)[0]).to(engine.device)
    items = torch.from_numpy(corpus.item_tokens(targets(corpus, rows))).to(engine.device)[:, None]
    # Keyed by the row itself: however the rows are shared out, the same thoughts are drawn.
    uniforms = rollout_uniforms(config.seed, rows[:, 0] * 2**20 + rows[:, 1], 1, steps)
    states, mask = engine.encode(history)
    prompts = engine.prompts(states, mask)
    first = model.history_state(states, mask)
    gold = iterative_inference(engine, prompts, first, model.item_states(items[:, 0]), steps)
    sampled = sample_thoughts(engine, prompts, torch.from_numpy(uniforms).to(engine.device))
    thoughts = gold.thinking.tokens[:, 0]
    ordered = thoughts.sort(dim=-1).values
    values = {
        "gold_nll": -item_log_probs(gold.thinking.branches, items)[:, 0],
        "sampled_nll": -item_log_probs(sampled.branches, items)[:, 0],
        "distance": gold.distances,
        "target_share": (thoughts.unsqueeze(-1) == items).any(-1).float().mean(-1),
        "distinct": 1.0 + (ordered[:, 1:] != ordered[:, :-1]).float().sum(-1),
    }
    return {name: value.float().cpu().numpy() for name, value in values.items()}
