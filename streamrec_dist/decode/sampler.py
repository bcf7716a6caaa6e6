"""Sampling of thoughts and items: encoder and start token once a prompt, G samples as rows of their prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.engine import Engine, Prompts
from streamrec_dist.decode.policy import restrict
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.repeatable import cumulated
from streamrec_dist.tokens import FIRST_CODE


@dataclass(frozen=True)
class Thinking:
    """Decoded thoughts, ready for more tokens."""

    tokens: Tensor  # int64 [P, R, l]
    hidden: Tensor  # float32 [P, R, l + 1, d]  states at bos, o_1, .., o_l
    branches: Branches  # R rows a prompt, which have read the thoughts


@dataclass(frozen=True)
class Samples:
    """G sampled sequences of each prompt."""

    tokens: Tensor  # int64 [P, G, l + m]
    logprobs: Tensor  # float32 [P, G, l + m], under the mask and temperature that sampled
    pooled: Tensor  # float32 [P, G, d], mean of the states that predicted the tokens
    thinking: Thinking


def think_greedily(engine: Engine, prompts: Prompts, steps: int) -> Thinking:
    """The most likely thought at each of `steps` steps, one sequence a prompt."""
    start = Branches.start(engine, prompts, steps)
    return think(start, steps, lambda branches, _: branches.thought_logits().argmax(dim=-1))


def sample_thoughts(engine: Engine, prompts: Prompts, uniforms: Tensor, temperature: float = 1.0) -> Thinking:
    """Thoughts sampled with uniforms [P, R, l], R sequences a prompt."""
    rows, steps = uniforms.shape[1:]
    start = Branches.start(engine, prompts, rows * steps).fan(rows)

    def draw(branches: Branches, step: int) -> Tensor:
        return draw_token(branches.thought_logits() / temperature, uniforms[:, :, step])[0]

    return think(start, steps, draw)


@torch.no_grad()
def think(branches: Branches, steps: int, choose: Callable[[Branches, int], Tensor]) -> Thinking:
    """`steps` thoughts after `branches`: `choose` gives the code token index int64 [P, R] of each step."""
    hidden = [branches.hidden]
    tokens = [torch.zeros((*branches.hidden.shape[:2], 0), dtype=torch.long, device=branches.hidden.device)]
    for step in range(steps):
        token = choose(branches, step) + FIRST_CODE
        branches = branches.advance(token)
        tokens.append(token.unsqueeze(-1))
        hidden.append(branches.hidden)
    return Thinking(torch.cat(tokens, dim=-1), torch.stack(hidden, dim=2), branches)


@torch.no_grad()
def sample(
    engine: Engine,
    prompts: Prompts,
    uniforms: Tensor,
    thoughts: int,
    temperature: float = 1.0,
    catalogue: Catalogue | None = None,
) -> Samples:
    """Sample `thoughts` thoughts and an item, G times a prompt, from the policy (section 2.4.1).

    uniforms float32 [P, G, l + m] decide the samples; a `catalogue` constrains the item's codes to its trie.
    """
    group, length = uniforms.shape[1:]
    branches = Branches.start(engine, prompts, group * (length - 1)).fan(group)
    after_thoughts = branches
    nodes = torch.zeros(uniforms.shape[:2], dtype=torch.long, device=uniforms.device)
    tokens, logprobs, states = [], [], [branches.hidden]
    for place in range(length):
        depth = place - thoughts
        logits = branches.item_logits(depth, nodes) if depth >= 0 else branches.thought_logits()
        logits = logits / temperature
        if catalogue is not None and depth >= 0:
            logits = restrict(logits, catalogue, depth, nodes)
        choice, logprob = draw_token(logits, uniforms[:, :, place])
        tokens.append(choice + FIRST_CODE)
        logprobs.append(logprob)
        if depth >= 0:
            walk = branches if catalogue is None else catalogue
            nodes = walk.descend(depth, nodes, tokens[-1])
        if place < length - 1:
            branches = branches.advance(tokens[-1])
            states.append(branches.hidden)
            if place < thoughts:
                after_thoughts = branches
    all_tokens, all_states = torch.stack(tokens, dim=-1), torch.stack(states, dim=2)
    thinking = Thinking(all_tokens[..., :thoughts], all_states[:, :, : thoughts + 1], after_thoughts)
    return Samples(all_tokens, torch.stack(logprobs, dim=-1), all_states.mean(dim=2), thinking)


def draw_token(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from logits float32 [..., V] with uniforms [...] in [0, 1): index int64 [...] and its log-prob [...].

    An entry of probability 0 is never drawn.
    """
    highest = logits.amax(dim=-1, keepdim=True)
    cdf = cumulated((logits - highest).exp_())
    total = cdf[..., -1:]
    # Against the last entry rather than 1, which the sum of rounded numbers is not.
    place = torch.searchsorted(cdf, uniforms.unsqueeze(-1) * total, right=True)
    last = torch.searchsorted(cdf, total.contiguous())
    place = torch.minimum(place, last)
    logprob = logits.gather(-1, place) - highest - total.log()
    return place.squeeze(-1), logprob.squeeze(-1)
