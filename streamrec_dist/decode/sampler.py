"""Sampling of thoughts and items: encoder once a prompt, cached decoding, G samples sharing their prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamrec_dist.decode.policy import descend, restrict
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.model.decoder import DecoderCache, Memory
from streamrec_dist.tokens import BOS, FIRST_CODE


@dataclass(frozen=True)
class Thinking:
    """Decoded thoughts, ready for more tokens: what follows them is predicted from `last`."""

    tokens: Tensor  # int64 [P, R, l]
    hidden: Tensor  # [P, R, l + 1, d]  states at bos, o_1, .., o_l
    cache: DecoderCache  # bos and the thoughts, P * R rows

    @property
    def last(self) -> Tensor:
        """The state that predicts the first code of the item [P, R, d]."""
        return self.hidden[:, :, -1]


@dataclass(frozen=True)
class Samples:
    """G sampled sequences of each prompt."""

    tokens: Tensor  # int64 [P, G, l + m]
    logprobs: Tensor  # float32 [P, G, l + m], under the mask and temperature that sampled
    pooled: Tensor  # float32 [P, G, d], mean of the states that predicted the tokens
    thinking: Thinking


@torch.no_grad()
def think_greedily(model: StreamRec, memory: Memory, steps: int) -> Thinking:
    """The most likely thought at each of `steps` steps, one sequence a prompt."""
    return _think(model, memory, steps, lambda log_probs, _: log_probs.argmax(dim=-1))


@torch.no_grad()
def sample_thoughts(model: StreamRec, memory: Memory, uniforms: Tensor, temperature: float = 1.0) -> Thinking:
    """Thoughts sampled with uniforms [P, l], one sequence a prompt."""

    def draw(log_probs: Tensor, step: int) -> Tensor:
        return inverse_cdf(log_probs / temperature, uniforms[:, None, step])

    return _think(model, memory, uniforms.shape[1], draw)


def _think(model: StreamRec, memory: Memory, steps: int, choose) -> Thinking:
    token = torch.full((memory.prompts, 1, 1), BOS, device=memory.states.device)
    hidden, cache = model.decode(token, memory)
    states, tokens = [hidden], []
    for step in range(steps):
        token = choose(model.log_probs(hidden[:, :, 0]), step).unsqueeze(-1) + FIRST_CODE
        tokens.append(token)
        hidden, cache = model.decode(token, memory, cache)
        states.append(hidden)
    empty = token.new_zeros((memory.prompts, 1, 0))
    return Thinking(torch.cat([empty, *tokens], dim=-1), torch.cat(states, dim=2), cache)


@torch.no_grad()
def sample(
    model: StreamRec,
    memory: Memory,
    uniforms: Tensor,
    thoughts: int,
    temperature: float = 1.0,
    catalogue: Catalogue | None = None,
) -> Samples:
    """Sample `thoughts` thoughts and an item, G times a prompt, from the policy (section 2.4.1).

    uniforms float32 [P, G, l + m] decide the samples; a `catalogue` constrains the item's codes to its trie.
    """
    prompts, group, length = uniforms.shape
    device = memory.states.device
    # Every sample starts with the same token: it is decoded once a prompt, then the cache fans out.
    hidden, cache = model.decode(torch.full((prompts, 1, 1), BOS, device=device), memory)
    cache = cache.select(torch.arange(prompts, device=device).repeat_interleave(group))
    hidden = hidden.expand(-1, group, -1, -1)
    nodes = torch.zeros((prompts, group), dtype=torch.long, device=device)
    tokens, logprobs, states = [], [], [hidden]
    after_thoughts = cache
    for place in range(length):
        log_probs = model.log_probs(hidden[:, :, 0], temperature)
        depth = place - thoughts
        if catalogue is not None and depth >= 0:
            log_probs = restrict(log_probs, catalogue, depth, nodes)
        choice = inverse_cdf(log_probs, uniforms[:, :, place])
        tokens.append(choice + FIRST_CODE)
        logprobs.append(log_probs.gather(-1, choice.unsqueeze(-1)).squeeze(-1))
        if catalogue is not None and depth >= 0:
            nodes = descend(catalogue, depth, nodes, tokens[-1])
        if place < length - 1:
            hidden, cache = model.decode(tokens[-1].unsqueeze(-1), memory, cache)
            states.append(hidden)
            if depth == -1:
                after_thoughts = cache
    all_tokens, all_states = torch.stack(tokens, dim=-1), torch.cat(states, dim=2)
    thinking = Thinking(all_tokens[..., :thoughts], all_states[:, :, : thoughts + 1], after_thoughts)
    return Samples(all_tokens, torch.stack(logprobs, dim=-1), all_states.float().mean(dim=2), thinking)


def inverse_cdf(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """Draw from log-probs [..., V] (any scale) with uniforms [...] in [0, 1): index int64 [...].

    An entry of probability 0 is never drawn.
    """
    cdf = torch.softmax(log_probs, dim=-1).cumsum(dim=-1)
    # Scaled by the last entry, which rounding leaves a little off 1.
    place = torch.searchsorted(cdf, (uniforms.unsqueeze(-1) * cdf[..., -1:]), right=True).squeeze(-1)
    last = torch.searchsorted(cdf, cdf[..., -1:].contiguous()).squeeze(-1)
    return torch.minimum(place, last)
