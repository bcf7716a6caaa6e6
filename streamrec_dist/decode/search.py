"""From encoded prompts to ranked items, however the thoughts before them are found (inference of section 2.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from streamrec_dist.decode.beam import beam_search
from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.engine import Engine, Prompts
from streamrec_dist.decode.joint import joint_beam_search
from streamrec_dist.decode.merge import merge_rows
from streamrec_dist.decode.sampler import Thinking, sample_thoughts, think_greedily
from streamrec_dist.items.catalogue import Catalogue

Thoughts = Literal["greedy", "sampled", "beam"]


@dataclass(frozen=True)
class Plan:
    """How the thoughts before an item are found.

    greedy: the likeliest token at each step. sampled: `samples` sequences drawn from the model, whose items are
    merged. beam: one beam over thoughts and item. With no steps there is nothing to find: direct decoding.
    """

    thoughts: Thoughts = "greedy"
    steps: int = 0
    samples: int = 1

    @property
    def sampled(self) -> bool:
        return self.thoughts == "sampled" and self.steps > 0

    @property
    def rows(self) -> int:
        """Sequences of thoughts that a prompt has a beam after."""
        return self.samples if self.sampled else 1


@dataclass(frozen=True)
class Found:
    """The best items of each prompt, best first."""

    items: Tensor  # int64 [P, W], -1 where no item is left
    scores: Tensor  # float32 [P, W], log-probs, -inf there
    thoughts: Tensor  # int64 [P, steps], those that lead to the first item


def search(
    engine: Engine,
    prompts: Prompts,
    catalogue: Catalogue,
    beam: int,
    plan: Plan,
    uniforms: Tensor | None = None,
    banned: Tensor | None = None,
) -> Found:
    """The W = min(beam, items) best items of each prompt, without those in `banned` int64 [P, X] (-1 = none).

    An item's probability is, with greedy thoughts, that after them; with sampled ones, its mean over the samples,
    where it counts as 0 after one whose beam has dropped it; with one beam over all, the sum over the sequences of
    the beam. `uniforms` float32 [P, samples, steps] draw the samples (`rollout_uniforms`). All shapes are known
    beforehand and nothing is read off the device, so that the whole can be recorded as a CUDA graph.
    """
    if plan.thoughts == "beam" and plan.steps > 0:
        start = Branches.start(engine, prompts, plan.steps * beam)
        return Found(*joint_beam_search(start, catalogue, plan.steps, beam, banned))
    if plan.sampled:
        assert uniforms is not None and uniforms.shape[1:] == (plan.samples, plan.steps)
        thinking = sample_thoughts(engine, prompts, uniforms)
    else:
        thinking = think_greedily(engine, prompts, plan.steps)
    each, scores = beam_search(thinking.branches, catalogue, beam, banned)
    if not plan.sampled:
        return Found(each[:, 0], scores[:, 0], thinking.tokens[:, 0])
    items, merged = merge_rows(each, scores, min(beam, catalogue.n_items))
    thoughts = _leading(thinking, each, scores, items)
    return Found(items, merged - math.log(plan.samples), thoughts)


def _leading(thinking: Thinking, each: Tensor, scores: Tensor, items: Tensor) -> Tensor:
    """The thoughts int64 [P, steps] after which the first of `items` is likeliest."""
    first = scores.masked_fill(each != items[:, :1, None], -torch.inf).amax(dim=-1)
    chosen = first.argmax(dim=-1)[:, None, None].expand(-1, -1, thinking.tokens.shape[-1])
    return thinking.tokens.gather(1, chosen)[:, 0]
