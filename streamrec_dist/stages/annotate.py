"""Stage 2's data: thoughts from iterative inference (section 2.3.1), and how well they lead to the target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamrec_dist.data.batches import targets
from streamrec_dist.decode.batched import BatchedDecode
from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.engine import Engine, Prompts
from streamrec_dist.decode.likelihood import direct_log_probs, item_log_probs
from streamrec_dist.decode.random import rollout_uniforms, row_keys
from streamrec_dist.decode.sampler import Thinking, sample_thoughts, think
from streamrec_dist.materials import Materials
from streamrec_dist.model.thinking import ThinkingHeads, nearest_tokens, unit_rms
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
    return Inference(thinking, distances(heads, first, target, thinking))


def distances(heads: ThinkingHeads, first: Tensor, target: Tensor, thinking: Thinking) -> Tensor:
    """How far the states s_0 .. s_l of one sequence of thoughts a row are from the target: float32 [P, l + 1],
    rms of n(t) - n(s_i); first d_0 and target t [P, d]."""
    states = heads.states(first, thinking.hidden[:, 0, 1:])
    gaps = unit_rms(target).unsqueeze(1) - unit_rms(states)
    return gaps.pow(2).mean(dim=-1).sqrt()


class Annotator:
    """Annotates training rows with the weights that `engine` has; `reference` is pi_ref, frozen after stage 1."""

    def __init__(self, materials: Materials, engine: Engine, reference: Engine):
        self.materials, self.engine, self.reference = materials, engine, reference
        self.catalogue = materials.catalogue.to(engine.device)
        self.decode = BatchedDecode(materials, engine.device, BATCH, self._decode)

    def annotate(self, first: int, last: int, round_number: int) -> Annotation:
        """The training rows first..last, with the current weights.

        The dispreferred item of each row is drawn from the target's text neighbours by (seed, round, row).
        """
        corpus, stage = self.materials.corpus, self.materials.config.stages.sft
        rows = self.materials.rows[first:last]
        seed = self.materials.config.seed + round_number * 7919
        draws = rollout_uniforms(seed, np.arange(first, last), 1, stage.thoughts + 2)[:, 0]
        items = targets(corpus, rows)
        neighbours = self.materials.neighbours[items]
        nearby = (draws[:, 0] * neighbours.shape[1]).astype(int)
        negatives = neighbours[np.arange(len(rows)), nearby].astype(np.int64)
        own = draws[:, 1] < stage.own_thoughts
        pairs = np.stack([items, negatives], axis=1)

        def arguments(numbers: np.ndarray) -> list[np.ndarray]:
            return [corpus.item_tokens(pairs[numbers]), draws[numbers, None, 2:], own[numbers]]

        return Annotation(first=first, own=own, negatives=negatives, **self.decode(rows, arguments))

    def _decode(
        self, history: Tensor, places: Tensor, below: Tensor, pairs: Tensor, uniforms: Tensor, own: Tensor
    ) -> dict[str, Tensor]:
        """Thoughts and pi_ref's log-probs of the target and the dispreferred item, whose tokens are `pairs`.

        pairs int64 [P, 2, m]; uniforms [P, 1, l] draw the thoughts of the rows `own` bool [P].
        """
        engine, stage = self.engine, self.materials.config.stages.sft
        states, mask = engine.encode(history)
        # Evidence decides which thoughts are sampled, as it does wherever the model thinks by itself.
        prompts = engine.prompts(states, mask, guide=engine.model.guide(self.catalogue, places, below))
        first = engine.model.history_state(states, mask)
        target = engine.model.item_states(pairs[:, 0])
        thoughts = iterative_inference(engine, prompts, first, target, stage.thoughts).thinking.tokens[:, 0]
        if stage.own_thoughts > 0:
            sampled = sample_thoughts(engine, prompts, uniforms).tokens[:, 0]
            thoughts = torch.where(own[:, None], sampled, thoughts)
        informed = self.reference.model.guide(self.catalogue, places, below, "direct")
        log_probs = direct_log_probs(self.reference, history, pairs, informed)
        return {
            "thoughts": thoughts.int(),
            "reference_target": log_probs[:, 0],
            "reference_negative": log_probs[:, 1],
        }


class ThinkingMeter:
    """How the model whose weights an engine has thinks on given rows."""

    def __init__(self, materials: Materials, engine: Engine):
        self.materials, self.engine = materials, engine
        self.catalogue = materials.catalogue.to(engine.device)
        self.decode = BatchedDecode(materials, engine.device, BATCH, self._decode)

    def measure(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """On rows int64 [n, 2], a value a row (means are taken by the caller):

        gold_nll, sampled_nll: the target's negative log-likelihood after annotated and after sampled thoughts, whose
        difference is the leak; distance, own_distance [n, l + 1] of s_i to the target by step of annotated and of
        sampled thoughts; distinct: distinct annotated thoughts; target_share: share of these that are codes
        of the target.
        """
        corpus, config = self.materials.corpus, self.materials.config
        tokens = corpus.item_tokens(targets(corpus, rows))[:, None]
        uniforms = rollout_uniforms(config.seed, row_keys(rows), 1, config.stages.sft.thoughts)
        return self.decode(rows, lambda numbers: [tokens[numbers], uniforms[numbers]])

    def _decode(
        self, history: Tensor, places: Tensor, below: Tensor, items: Tensor, uniforms: Tensor
    ) -> dict[str, Tensor]:
        """The values of rows with target tokens `items` int64 [P, 1, m]; uniforms [P, 1, l] draw the thoughts."""
        engine, model = self.engine, self.engine.model
        states, mask = engine.encode(history)
        guide = model.guide(self.catalogue, places, below)
        prompts = engine.prompts(states, mask, guide=guide)
        first = model.history_state(states, mask)
        target = model.item_states(items[:, 0])
        gold = iterative_inference(engine, prompts, first, target, uniforms.shape[-1])
        sampled = sample_thoughts(engine, prompts, uniforms)
        thoughts = gold.thinking.tokens[:, 0]
        ordered = thoughts.sort(dim=-1).values
        return {
            "gold_nll": -item_log_probs(gold.thinking.branches, items)[:, 0],
            "sampled_nll": -item_log_probs(sampled.branches, items)[:, 0],
            "distance": gold.distances,
            "own_distance": distances(model.heads, first, target, sampled),
            "target_share": (thoughts.unsqueeze(-1) == items).any(-1).float().mean(-1),
            "distinct": 1.0 + (ordered[:, 1:] != ordered[:, :-1]).float().sum(-1),
        }
