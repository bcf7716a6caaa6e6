"""What a rollout actor does with one unit of prompts: sample, score candidates, pool. One pass, one version."""

from __future__ import annotations

import numpy as np
import torch

from streamrec_dist.data.batches import history_tokens, targets
from streamrec_dist.decode.candidates import candidate_log_probs
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import sample
from streamrec_dist.materials import Materials, arithmetic
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.types import PolicyVersion, RolloutBatch


def prompt_rows(rows: int, seed: int, cursor: int, count: int) -> np.ndarray:
    """The training rows int64 [count] of prompts `cursor`..: every pass over the rows is a fresh permutation."""
    numbers = np.arange(cursor, cursor + count)
    chosen = np.empty(count, dtype=np.int64)
    for turn in np.unique(numbers // rows):
        here = numbers // rows == turn
        chosen[here] = np.random.default_rng([seed, int(turn)]).permutation(rows)[numbers[here] % rows]
    return chosen


@torch.no_grad()
def rollout(
    materials: Materials, model: StreamRec, version: PolicyVersion, cursor: int, count: int
) -> RolloutBatch:
    """G rollouts of each of the prompts `cursor`..`cursor + count`, with all columns that need the policy.

    The samples are a function of (seed, cursor, version's weights), whoever draws them.
    """
    config, corpus, device = materials.config, materials.corpus, model.embed.weight.device
    rl, thoughts = config.stages.rl, config.stages.sft.thoughts
    chosen = prompt_rows(len(materials.rows), config.seed, cursor, count)
    rows = materials.rows[chosen]
    items = targets(corpus, rows)
    uniforms = rollout_uniforms(
        config.seed, np.arange(cursor, cursor + count), rl.group_size, thoughts + corpus.levels
    )
    others = np.random.default_rng([config.seed, 1, cursor]).permutation(corpus.n_items)
    others = others[: rl.similarity_items].astype(np.int64)
    candidates = np.concatenate([items[:, None], materials.neighbours[items, : rl.negatives]], axis=1)

    history = torch.from_numpy(history_tokens(corpus, rows)[0]).to(device)
    catalogue = materials.catalogue.to(device) if rl.sampling == "trie" else None
    engine = Engine(model, arithmetic(config))
    samples = sample(
        engine,
        engine.read(history),
        torch.from_numpy(uniforms).to(device),
        thoughts,
        rl.temperature,
        catalogue,
    )
    scored = candidate_log_probs(
        samples.thinking.branches, torch.from_numpy(corpus.item_tokens(candidates)).to(device)
    )
    target_states = model.item_states(torch.from_numpy(corpus.item_tokens(items)).to(device))
    other_states = model.item_states(torch.from_numpy(corpus.item_tokens(others)).to(device))
    return RolloutBatch(
        rows=chosen,
        tokens=samples.tokens.cpu().numpy().astype(np.int32),
        logprobs=samples.logprobs.float().cpu().numpy(),
        pooled=samples.pooled.cpu().numpy(),
        target_states=target_states.float().cpu().numpy(),
        other_items=others,
        other_states=other_states.float().cpu().numpy(),
        candidate_logprobs=scored.float().cpu().numpy(),
        version=version,
        seed=config.seed,
        cursor=cursor,
    )
