"""Log-probabilities of given items after given thoughts, for the likelihood and ranking rewards.

The candidates of a prompt are hard negatives of its target and share most of their first codes. They are laid
out as a tree of distinct prefixes, decoded in one pass on top of each rollout's own thought cache: a node sees
the thoughts and its ancestors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from streamrec_dist.decode.branches import Branches, visible_bias
from streamrec_dist.tokens import FIRST_CODE

#: Prompts that share a tree and are decoded at a time, which bounds the memory of the logits.
CHUNK = 4


class PrefixTree(NamedTuple):
    """Distinct prefixes of length 1..m-1 of each prompt's candidates, in order of length; N nodes, padded."""

    prompts: Tensor  # int64 [P]       which prompts of the batch these are
    tokens: Tensor  # int64 [P, N]      last token of the prefix
    depth: Tensor  # int64 [P, N]      its length
    sees: Tensor  # bool [P, N, N]    itself and its ancestors
    node: Tensor  # int64 [P, C, m-1] node of each candidate's prefix of each length

    def padded(self, multiple: int) -> PrefixTree:
        """With nodes that no candidate has, up to a multiple of `multiple`."""
        more = -self.tokens.shape[1] % multiple
        return self._replace(
            tokens=F.pad(self.tokens, (0, more), value=FIRST_CODE),
            depth=F.pad(self.depth, (0, more), value=1),
            sees=F.pad(self.sees, (0, more, 0, more)),
        )

    def chunks(self, size: int) -> list[PrefixTree]:
        """The trees of `size` prompts at a time."""
        return [PrefixTree(*parts) for parts in zip(*(field.split(size) for field in self), strict=True)]


def prefix_trees(candidates: Tensor, chunk: int = CHUNK) -> list[PrefixTree]:
    """Candidates int64 [P, C, m] on the host -> the trees of `chunk` prompts at a time.

    Prompts with about as many nodes share one, which is then padded little.
    """
    if not len(candidates):
        return []
    whole = prefix_tree(candidates)
    nodes = whole.sees.diagonal(dim1=1, dim2=2).sum(dim=-1)
    trees = []
    for some in nodes.argsort().split(chunk):
        used = slice(int(nodes[some].max()))
        tokens, depth, sees, node = (field[some] for field in whole[1:])
        trees.append(PrefixTree(some, tokens[:, used], depth[:, used], sees[:, used, used], node))
    return trees


def prefix_tree(candidates: Tensor) -> PrefixTree:
    """Candidates int64 [P, C, m] of code tokens -> their tree.

    On the host: how many nodes there are depends on the candidates' values, for which a device would be waited for.
    """
    prompts, count, levels = candidates.shape
    group = torch.zeros((prompts, count), dtype=torch.long)
    start = torch.zeros((prompts, 1), dtype=torch.long)
    nodes = []
    for depth in range(levels - 1):
        # Number the distinct (parent, token) pairs of each prompt: sort, and count the changes.
        keys = group * (candidates.max() + 1) + candidates[..., depth]
        ordered, order = keys.sort(dim=-1)
        rank = torch.zeros_like(ordered)
        rank[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(dim=-1)
        group = torch.empty_like(rank).scatter_(-1, order, rank)
        nodes.append(group + start)
        start = start + rank[:, -1:] + 1
    node = torch.stack(nodes, dim=-1) if nodes else candidates[..., :0]
    width = int(start.max())
    tokens = torch.full((prompts, width), FIRST_CODE)
    depths = torch.ones((prompts, width), dtype=torch.long)
    sees = torch.zeros((prompts, width, width), dtype=torch.bool)
    prompt = torch.arange(prompts).unsqueeze(-1)
    for depth, here in enumerate(nodes):
        tokens.scatter_(-1, here, candidates[..., depth])
        depths.scatter_(-1, here, depth + 1)
        for ancestor in nodes[: depth + 1]:
            sees[prompt, here, ancestor] = True
    return PrefixTree(prompt[:, 0], tokens, depths, sees, node)


@torch.no_grad()
def candidate_log_probs(thoughts: Branches, candidates: Tensor, trees: Sequence[PrefixTree]) -> Tensor:
    """log P(candidate | history, thoughts), float32 [P, G, C], after each of the G rows of `thoughts`.

    candidates int64 [P, C, m] of code tokens; `trees` are theirs, each of some of the prompts.
    """
    root = torch.zeros(thoughts.hidden.shape[:2], dtype=torch.long, device=candidates.device)
    first = torch.log_softmax(thoughts.item_logits(0, root), dim=-1)
    index = candidates - FIRST_CODE
    total = first.gather(-1, index[:, None, :, 0].expand(-1, thoughts.rows, -1))
    if candidates.shape[-1] > 1:
        for tree in trees:
            total.index_add_(0, tree.prompts, _score(thoughts, candidates[tree.prompts], tree))
    return total


def _score(thoughts: Branches, candidates: Tensor, tree: PrefixTree) -> Tensor:
    """log P of all codes but the first [P, G, C], for the tree's prompts."""
    engine, group = thoughts.engine, thoughts.rows
    count, width, _ = candidates.shape
    logits = _guided(thoughts, candidates, tree, engine.logits(_tree_states(thoughts, tree)))
    # A node's normaliser is shared by all its children, so it is taken once and not per candidate.
    normaliser = logits.logsumexp(dim=-1)
    total = torch.zeros((count, group, width), device=candidates.device)
    index = candidates - FIRST_CODE
    for depth in range(tree.node.shape[-1]):
        node = tree.node[:, None, :, depth].expand(-1, group, -1)
        flat = node * logits.shape[-1] + index[:, None, :, depth + 1].expand(-1, group, width)
        total += logits.flatten(2).gather(-1, flat) - normaliser.gather(-1, node)
    return total


def _guided(thoughts: Branches, candidates: Tensor, tree: PrefixTree, logits: Tensor) -> Tensor:
    """Logits [P, G, N, V] of what follows the tree's nodes, guided as its prompts are."""
    if thoughts.prompts.guide is None:
        return logits
    guide = thoughts.prompts.guide.part(tree.prompts)
    nodes = torch.zeros_like(candidates[..., 0])
    said = nothing = logits.new_zeros((*tree.tokens.shape, logits.shape[-1]))
    for depth in range(tree.node.shape[-1]):
        nodes = guide.catalogue.descend(depth, nodes, candidates[..., depth])
        # Nodes of other lengths, and those that no candidate has, are none.
        here = torch.full_like(tree.tokens, -1).scatter_(1, tree.node[..., depth], nodes)
        said = said + guide.add(nothing, depth + 1, here)
    trust = guide.trust(tree.depth).unsqueeze(-1)
    return logits * trust.unsqueeze(1) + said.unsqueeze(1)


def _tree_states(thoughts: Branches, tree: PrefixTree) -> Tensor:
    """States [P, G, N, d] of the tree's nodes after each of the G thoughts."""
    nodes, length = tree.tokens.shape[1], thoughts.position
    prompts = thoughts.prompts.part(tree.prompts)
    columns = thoughts.columns.apart(tree.prompts, thoughts.sees, length, room=nodes)
    positions = length - 1 + tree.depth
    read = torch.arange(length, device=positions.device).expand(len(positions), -1)
    sees = F.pad(tree.sees, (length, 0), value=True)
    bias = visible_bias(thoughts.engine, prompts, positions, torch.cat([read, positions], dim=-1), sees)
    tokens = tree.tokens[:, None].expand(-1, thoughts.rows, -1)
    return thoughts.engine.step(tokens, prompts, columns, bias)
