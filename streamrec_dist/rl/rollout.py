"""What a rollout actor does with one unit of prompts: sample, score candidates, pool. One pass, one version."""

from __future__ import annotations

import numpy as np
import torch

from streamrec_dist.data.batches import history_lengths, history_tokens, in_length_batches, targets
from streamrec_dist.decode.candidates import candidate_log_probs
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import sample
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.materials import Materials, arithmetic
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.types import PolicyVersion, RolloutBatch

#: Prompts decoded together: enough to fill the matrix products, few enough to be of one length.
PROMPTS = 64


def prompt_rows(rows: int, seed: int, cursor: int, count: int) -> np.ndarray:
    """The training rows int64 [count] of prompts `cursor`..: every pass over the rows is a fresh permutation."""
    numbers = np.arange(cursor, cursor + count)
    chosen = np.empty(count, dtype=np.int64)
    for turn in np.unique(numbers // rows):
        here = numbers // rows == turn
        chosen[here] = np.random.default_rng([seed, int(turn)]).permutation(rows)[numbers[here] % rows]
    return chosen


def rollout(
    materials: Materials, model: StreamRec, version: PolicyVersion, cursor: int, count: int
) -> RolloutBatch:
    """G rollouts of each of the prompts `cursor`..`cursor + count`, with all columns that need the policy.

    The samples are a function of (seed, cursor, version's weights), whoever draws them.
    """
    config, corpus = materials.config, materials.corpus
    engine = Engine(model, arithmetic(config))
    chosen = prompt_rows(len(materials.rows), config.seed, cursor, count)
    rows = materials.rows[chosen]
    others = np.random.default_rng([config.seed, 1, cursor]).permutation(corpus.n_items)
    others = others[: config.stages.rl.similarity_items].astype(np.int64)

    catalogue = materials.catalogue.to(engine.device) if config.stages.rl.sampling == "trie" else None

    def decode(numbers: np.ndarray) -> dict[str, np.ndarray]:
        return _decode(materials, engine, catalogue, rows[numbers], cursor + numbers)

    columns = in_length_batches(history_lengths(corpus, rows), PROMPTS, decode)
    return RolloutBatch(
        rows=chosen,
        target_states=_item_states(materials, engine, targets(corpus, rows)),
        other_items=others,
        other_states=_item_states(materials, engine, others),
        version=version,
        seed=config.seed,
        cursor=cursor,
        **columns,
    )


def _decode(
    materials: Materials, engine: Engine, catalogue: Catalogue | None, rows: np.ndarray, cursors: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of prompts `rows` int64 [n, 2] that have the numbers `cursors` int64 [n] in the run.

    A `catalogue` constrains the items' codes to its trie.
    """
    config, corpus, device = materials.config, materials.corpus, engine.device
    rl, thoughts = config.stages.rl, config.stages.sft.thoughts
    items = targets(corpus, rows)
    candidates = np.concatenate([items[:, None], materials.neighbours[items, : rl.negatives]], axis=1)
    uniforms = rollout_uniforms(config.seed, cursors, rl.group_size, thoughts + corpus.levels)
    prompts = engine.read(torch.from_numpy(history_tokens(corpus, rows)[0]).to(device))
    uniforms_t = torch.from_numpy(uniforms).to(device)
    samples = sample(engine, prompts, uniforms_t, thoughts, rl.temperature, catalogue)
    candidates_t = torch.from_numpy(corpus.item_tokens(candidates)).to(device)
    scored = candidate_log_probs(samples.thinking.branches, candidates_t)
    return {
        "tokens": samples.tokens.cpu().numpy().astype(np.int32),
        "logprobs": samples.logprobs.cpu().numpy(),
        "pooled": samples.pooled.cpu().numpy(),
        "candidate_logprobs": scored.cpu().numpy(),
    }


@torch.no_grad()
def _item_states(materials: Materials, engine: Engine, items: np.ndarray) -> np.ndarray:
    tokens = torch.from_numpy(materials.corpus.item_tokens(items)).to(engine.device)
    return engine.model.item_states(tokens).float().cpu().numpy()
