"""Log-probabilities of given items after given thoughts, for the likelihood and ranking rewards.

The candidates of a prompt are hard negatives of its target and share most of their first codes. They are laid
out as a tree of distinct prefixes, decoded in one pass on top of each rollout's own thought cache: a node sees
the thoughts and its ancestors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamrec_dist.decode.sampler import Thinking
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.model.decoder import Memory
from streamrec_dist.model.layers import MASKED
from streamrec_dist.tokens import FIRST_CODE


@dataclass(frozen=True)
class PrefixTree:
    """Distinct prefixes of length 1..m-1 of each prompt's candidates; N nodes, padded."""

    tokens: Tensor  # int64 [P, N]      last token of the prefix
    depth: Tensor  # int64 [N]         its length
    sees: Tensor  # bool [P, N, N]    itself and its ancestors
    node: Tensor  # int64 [P, C, m-1] node of each candidate's prefix of each length


def prefix_tree(candidates: Tensor) -> PrefixTree:
    """Candidates int64 [P, C, m] of code tokens -> their tree."""
    prompts, count, levels = candidates.shape
    device = candidates.device
    group = torch.zeros((prompts, count), dtype=torch.long, device=device)
    tokens, depths, nodes = [], [], []
    start = 0
    for depth in range(levels - 1):
        # Number the distinct (parent, token) pairs of each prompt: sort, and count the changes.
        keys = group * (candidates.max() + 1) + candidates[..., depth]
        ordered, order = keys.sort(dim=-1)
        rank = torch.zeros_like(ordered)
        rank[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(dim=-1)
        group = torch.empty_like(rank).scatter_(-1, order, rank)
        width = int(rank.max()) + 1
        last = torch.full((prompts, width), FIRST_CODE, device=device)
        tokens.append(last.scatter_(-1, group, candidates[..., depth]))
        depths.append(torch.full((width,), depth + 1, device=device))
        nodes.append(group + start)
        start += width
    node = torch.stack(nodes, dim=-1) if nodes else candidates[..., :0]
    sees = torch.eye(start, dtype=torch.bool, device=device).repeat(prompts, 1, 1)
    prompt = torch.arange(prompts, device=device).unsqueeze(-1)
    for depth in range(levels - 1):
        for ancestor in range(depth):
            sees[prompt, node[..., depth], node[..., ancestor]] = True
    if not tokens:
        return PrefixTree(candidates[:, 0, :0], candidates.new_zeros(0), sees, node)
    return PrefixTree(torch.cat(tokens, dim=-1), torch.cat(depths), sees, node)


@torch.no_grad()
def candidate_log_probs(
    model: StreamRec, memory: Memory, thinking: Thinking, candidates: Tensor, chunk: int = 8
) -> Tensor:
    """log P(candidate | history, thoughts), float32 [P, G, C]; candidates int64 [P, C, m] of code tokens.

    `chunk` prompts are decoded at a time, which bounds the memory of the logits.
    """
    group = thinking.tokens.shape[1]
    parts = []
    for first in range(0, memory.prompts, chunk):
        prompts = slice(first, first + chunk)
        rows = torch.arange(
            first * group, min(first + chunk, memory.prompts) * group, device=candidates.device
        )
        part = Memory(
            memory.states[prompts],
            memory.mask[prompts],
            memory.bias[prompts],
            [(k[prompts], v[prompts]) for k, v in memory.cross],
        )
        cut = Thinking(thinking.tokens[prompts], thinking.hidden[prompts], thinking.cache.select(rows))
        parts.append(_score(model, part, cut, candidates[prompts]))
    return torch.cat(parts)


def _score(model: StreamRec, memory: Memory, thinking: Thinking, candidates: Tensor) -> Tensor:
    group, count = thinking.tokens.shape[1], candidates.shape[1]
    index = candidates - FIRST_CODE
    first = model.log_probs(thinking.last)
    total = first.gather(-1, index[:, None, :, 0].expand(-1, group, -1))
    tree = prefix_tree(candidates)
    if tree.tokens.shape[1] == 0:
        return total
    tokens = tree.tokens[:, None].expand(-1, group, -1)
    bias = _tree_bias(model, thinking, tree, group)
    hidden, _ = model.decoder(model.embed(tokens), memory, thinking.cache, bias)
    logits = model.logits(hidden).float()
    # A node's normaliser is shared by all its children, so it is taken once and not per candidate.
    normaliser = logits.logsumexp(dim=-1)
    for depth in range(tree.node.shape[-1]):
        node = tree.node[:, None, :, depth].expand(-1, group, -1)
        flat = node * logits.shape[-1] + index[:, None, :, depth + 1].expand(-1, group, count)
        total = total + logits.flatten(2).gather(-1, flat) - normaliser.gather(-1, node)
    return total


def _tree_bias(model: StreamRec, thinking: Thinking, tree: PrefixTree, group: int) -> Tensor:
    """Self-attention bias [P * G, heads, N, cached + N]: all thoughts, and the node's own ancestors."""
    cached = thinking.cache.length
    positions = cached - 1 + tree.depth
    past = torch.arange(cached, device=positions.device)
    relative = model.decoder.bias(positions, torch.cat([past, positions]))
    hidden = torch.where(tree.sees, 0.0, MASKED)[:, None]
    hidden = torch.nn.functional.pad(hidden, (cached, 0))
    return (relative + hidden).repeat_interleave(group, dim=0)
