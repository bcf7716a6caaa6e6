"""A trained model as a recommender: what each stage's model decodes before the item, and what it ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamrec_dist.config import Config
from streamrec_dist.data.batches import (
    history_lengths,
    in_length_batches,
    length_batches,
    targets,
)
from streamrec_dist.decode.beam import free_beam_search
from streamrec_dist.decode.engine import Engine, Prompts
from streamrec_dist.decode.random import rollout_uniforms, row_keys
from streamrec_dist.decode.sampler import think_greedily
from streamrec_dist.decode.search import Plan, search
from streamrec_dist.materials import Materials, arithmetic
from streamrec_dist.metrics import beam_ranks
from streamrec_dist.model.backbone import Stack, StreamRec

#: What decodes an item directly: the direct decoder after stage 1, and TIGER, which is one trained alone.
DIRECT = ("direct", "tiger")


def plan_of(model: str, config: Config) -> Plan:
    """What is decoded before the item: nothing directly, retrieved items greedily after stage 1, thoughts later."""
    if model in DIRECT:
        return Plan()
    if model == "pretrain":
        return Plan("greedy", config.stages.pretrain.retrieved * config.items.levels)
    evaluate = config.stages.evaluate
    return Plan(evaluate.thoughts, config.stages.sft.thoughts, evaluate.samples)


def decoding_of(plan: Plan, beam: int) -> dict[str, Any]:
    """How a result was decoded, to be recorded with it."""
    return {
        "thoughts": plan.thoughts if plan.steps else "none",
        "steps": plan.steps,
        "samples": plan.rows if plan.sampled else None,
        "beam": beam,
    }


@dataclass(frozen=True)
class Ranked:
    """The best items of some rows, best first."""

    items: np.ndarray  # int64 [n, W], -1 where the beam ran out
    scores: np.ndarray  # float32 [n, W], log-probabilities
    thoughts: np.ndarray  # int64 [n, steps] tokens decoded before the first item


class Recommender:
    """Ranks the whole catalogue for rows (user, position), with one stage's model."""

    def __init__(
        self,
        materials: Materials,
        model: StreamRec,
        name: str,
        device: str = "cpu",
        engine: Engine | None = None,
    ):
        self.materials = materials
        self.config = materials.config
        materials.check_model(model)
        self.model = model.to(device).eval()
        self.engine = engine or Engine(self.model, arithmetic(self.config))
        self.device = torch.device(device)
        self.plan = plan_of(name, self.config)
        self.stack: Stack = "direct" if name in DIRECT else "thinking"
        self.catalogue = materials.catalogue.to(device)

    def rank(self, rows: np.ndarray, beam: int, mask_history: bool) -> Ranked:
        """Rows int64 [n, 2] -> their best items (beam search after or over thoughts, section 2.1)."""
        columns = in_length_batches(
            history_lengths(self.materials.corpus, rows),
            max(1, self.config.stages.evaluate.batch // self.plan.rows),
            lambda numbers: vars(self._rank(rows[numbers], beam, mask_history)),
        )
        return Ranked(**columns)

    def _rank(self, rows: np.ndarray, beam: int, mask_history: bool) -> Ranked:
        banned = self._histories(rows) if mask_history else None
        return self.rank_prompts(self.materials.prompts(rows), row_keys(rows), beam, banned)

    def rank_prompts(
        self, prompts: list[np.ndarray], keys: np.ndarray, beam: int, banned: Tensor | None
    ) -> Ranked:
        """The best items after n prompts (`Materials.prompts`), without those in `banned` int64 [n, X].

        `keys` int64 [n] decide which thoughts are sampled for each, where they are.
        """
        uniforms = None
        if self.plan.sampled:
            draws = rollout_uniforms(self.config.seed, keys, self.plan.samples, self.plan.steps)
            uniforms = torch.from_numpy(draws).to(self.device)
        found = search(self.engine, self._read(prompts), self.catalogue, beam, self.plan, uniforms, banned)
        return Ranked(*(column.cpu().numpy() for column in vars(found).values()))

    def target_ranks(self, rows: np.ndarray, mask_history: bool, beam: int | None = None) -> np.ndarray:
        """Rank of each row's target in the beam, from 1; 0 where the beam misses it: int64 [n].

        Its place among equal scores is drawn by chance, always the same for a row.
        """
        ranked = self.rank(rows, beam or self.config.stages.evaluate.beam, mask_history)
        wanted = targets(self.materials.corpus, rows)
        # Seeds of runs are below 2**31: these draws are not those of the thoughts.
        draws = rollout_uniforms(self.config.seed + 2**31, row_keys(rows), 1, 1)[:, 0, 0]
        return beam_ranks(ranked.items, ranked.scores, wanted, draws)

    def invalid_beam_share(self, rows: np.ndarray) -> float:
        """Share of an unconstrained beam's sequences, after greedy thoughts, that name no item of the catalogue.

        On the trie none does.
        """
        if self.model.on_trie:
            return 0.0
        invalid = total = 0
        lengths = history_lengths(self.materials.corpus, rows)
        for batch in length_batches(lengths, self.config.stages.evaluate.batch):
            prompts = self._read(self.materials.prompts(rows[batch]))
            start = think_greedily(self.engine, prompts, self.plan.steps).branches
            beam = self.config.stages.evaluate.beam
            tokens, _ = free_beam_search(start, self.catalogue.levels, beam)
            invalid += int((self.catalogue.item_of_tokens(tokens) < 0).sum())
            total += tokens.shape[0] * tokens.shape[1]
        return invalid / max(total, 1)

    def _read(self, prompts: list[np.ndarray]) -> Prompts:
        """Prompts encoded for the decoder that ranks."""
        history, places, below = (torch.from_numpy(array).to(self.device) for array in prompts)
        guide = self.model.guide(self.catalogue, places, below, self.stack)
        return self.engine.read(history, self.stack, guide)

    def _histories(self, rows: np.ndarray) -> Tensor:
        """All earlier items of each row, not only those the model sees: int64 [n, X], padded with -1."""
        corpus = self.materials.corpus
        longest = int(rows[:, 1].max(initial=0))
        place = np.arange(longest)
        inside = place < rows[:, 1:2]
        where = np.where(inside, corpus.offsets[rows[:, 0]][:, None] + place, 0)
        return torch.from_numpy(np.where(inside, corpus.items[where].astype(np.int64), -1)).to(self.device)
