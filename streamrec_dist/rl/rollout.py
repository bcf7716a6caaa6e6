"""What a rollout actor does with one unit of prompts: sample, score candidates, pool. One pass, one version."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from streamrec_dist.data.batches import targets
from streamrec_dist.decode.batched import BatchedDecode
from streamrec_dist.decode.candidates import CHUNK, PrefixTree, candidate_log_probs, prefix_tree, prefix_trees
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import sample
from streamrec_dist.materials import Materials
from streamrec_dist.transfer import to_device, to_host
from streamrec_dist.types import PolicyVersion, RolloutBatch

#: Prompts decoded together: enough to fill the matrix products, few enough to be of one length.
PROMPTS = 64
#: Where shapes are static, a tree of candidates has a multiple of so many nodes.
NODES = 32


def prompt_rows(rows: int, seed: int, cursor: int, count: int) -> np.ndarray:
    """The training rows int64 [count] of prompts `cursor`..: every pass over the rows is a fresh permutation."""
    numbers = np.arange(cursor, cursor + count)
    chosen = np.empty(count, dtype=np.int64)
    for turn in np.unique(numbers // rows):
        here = numbers // rows == turn
        chosen[here] = np.random.default_rng([seed, int(turn)]).permutation(rows)[numbers[here] % rows]
    return chosen


class Sampler:
    """Samples groups with the weights that its engine has; kept as long as the engine, and its graphs with it."""

    def __init__(self, materials: Materials, engine: Engine):
        self.materials, self.engine = materials, engine
        self.catalogue = materials.catalogue.to(engine.device)
        self.constrained = materials.config.stages.rl.sampling == "trie"
        self.decode = BatchedDecode(materials, engine.device, PROMPTS, self._decode)

    def rollout(self, version: PolicyVersion, cursor: int, count: int) -> RolloutBatch:
        """G rollouts of each of the prompts `cursor`..`cursor + count`, with all columns that need the policy.

        The samples are a function of (seed, cursor, version's weights), whoever draws them.
        """
        config, corpus = self.materials.config, self.materials.corpus
        first = self.materials.first_prompt
        chosen = first + prompt_rows(len(self.materials.rows) - first, config.seed, cursor, count)
        rows = self.materials.rows[chosen]
        others = np.random.default_rng([config.seed, 1, cursor]).permutation(corpus.n_items)
        others = others[: config.stages.rl.similarity_items].astype(np.int64)
        other_states = self._item_states(others)  # complete when the columns are
        columns = self.decode(rows, lambda numbers: self._arguments(rows[numbers], cursor + numbers))
        return RolloutBatch(
            rows=chosen,
            other_items=others,
            other_states=other_states,
            version=version,
            seed=config.seed,
            cursor=cursor,
            **columns,
        )

    def _arguments(self, rows: np.ndarray, cursors: np.ndarray) -> list[np.ndarray]:
        """Uniforms and candidates of prompts `rows` int64 [n, 2], numbers `cursors` int64 [n], and their trees."""
        config, corpus = self.materials.config, self.materials.corpus
        rl, length = config.stages.rl, config.stages.sft.thoughts + corpus.levels
        items = targets(corpus, rows)
        candidates = np.concatenate(
            [items[:, None], self.materials.neighbours[items, : rl.negatives]], axis=1
        )
        tokens = torch.from_numpy(corpus.item_tokens(candidates))
        # Where shapes are static, one tree for all, of one of few sizes.
        one = self.decode.static and len(rows) > 0
        trees = [prefix_tree(tokens).padded(NODES)] if one else prefix_trees(tokens)
        uniforms = rollout_uniforms(config.seed, cursors, rl.group_size, length)
        return [uniforms, tokens.numpy(), *(field.numpy() for tree in trees for field in tree)]

    def _decode(
        self,
        history: Tensor,
        places: Tensor,
        below: Tensor,
        uniforms: Tensor,
        candidates: Tensor,
        *fields: Tensor,
    ) -> dict[str, Tensor]:
        """The columns of some prompts, on the device; `fields` are those of the candidates' trees."""
        config, engine = self.materials.config, self.engine
        rl, thoughts = config.stages.rl, config.stages.sft.thoughts
        prompts = engine.read(history, guide=engine.model.guide(self.catalogue, places, below))
        catalogue = self.catalogue if self.constrained else None
        samples = sample(engine, prompts, uniforms, thoughts, rl.temperature, catalogue)
        width = len(PrefixTree._fields)
        trees = [PrefixTree(*fields[start : start + width]) for start in range(0, len(fields), width)]
        chunks = [chunk for tree in trees for chunk in tree.chunks(CHUNK)]
        return {
            "tokens": samples.tokens.int(),
            "logprobs": samples.logprobs,
            "pooled": samples.pooled,
            "candidate_logprobs": candidate_log_probs(samples.thinking.branches, candidates, chunks),
            "target_states": engine.model.item_states(candidates[:, 0]).float(),
        }

    @torch.no_grad()
    def _item_states(self, items: np.ndarray) -> np.ndarray:
        tokens = to_device(self.materials.corpus.item_tokens(items), self.engine.device)
        return to_host(self.engine.model.item_states(tokens).float())
