"""A trained model as a recommender: what each stage's model decodes before the item, and what it ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamrec_dist.config import Config
from streamrec_dist.data.batches import (
    history_lengths,
    history_tokens,
    in_length_batches,
    length_batches,
    targets,
)
from streamrec_dist.decode.beam import beam_search, free_beam_search
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.sampler import Thinking, think_greedily
from streamrec_dist.materials import Materials, arithmetic
from streamrec_dist.model.backbone import StreamRec


def thinking_steps(model: str, config: Config) -> int:
    """Tokens decoded greedily before the item: the retrieved items' after stage 1, thoughts later, 0 directly."""
    if model == "direct":
        return 0
    if model == "pretrain":
        return config.stages.pretrain.retrieved * config.items.levels
    return config.stages.sft.thoughts


@dataclass(frozen=True)
class Ranked:
    """The best items of some rows, best first."""

    items: np.ndarray  # int64 [n, W], -1 where the beam ran out
    scores: np.ndarray  # float32 [n, W], log-probabilities
    thoughts: np.ndarray  # int64 [n, steps] tokens decoded before the item


class Recommender:
    """Ranks the whole catalogue for rows (user, position), with one stage's model."""

    def __init__(self, materials: Materials, model: StreamRec, name: str, device: str = "cpu"):
        self.materials = materials
        self.config = materials.config
        materials.check_model(model)
        self.model = model.to(device).eval()
        self.engine = Engine(self.model, arithmetic(self.config))
        self.device = torch.device(device)
        self.steps = thinking_steps(name, self.config)
        self.catalogue = materials.catalogue.to(device)

    def rank(self, rows: np.ndarray, beam: int, mask_history: bool) -> Ranked:
        """Rows int64 [n, 2] -> their best items (beam search after greedy thoughts, section 2.1)."""
        columns = in_length_batches(
            history_lengths(self.materials.corpus, rows),
            self.config.stages.evaluate.batch,
            lambda numbers: vars(self._rank(rows[numbers], beam, mask_history)),
        )
        return Ranked(**columns)

    def _rank(self, rows: np.ndarray, beam: int, mask_history: bool) -> Ranked:
        history, _ = history_tokens(self.materials.corpus, rows)
        return self.rank_histories(history, beam, self._histories(rows) if mask_history else None)

    def rank_histories(self, history: np.ndarray, beam: int, banned: Tensor | None) -> Ranked:
        """The best items after history tokens int64 [n, S], without those in `banned` int64 [n, X]."""
        thinking = self._think(history)
        items, scores = beam_search(thinking.branches, self.catalogue, beam, banned)
        columns = (items[:, 0], scores[:, 0], thinking.tokens[:, 0])
        return Ranked(*(column.cpu().numpy() for column in columns))

    def target_ranks(self, rows: np.ndarray, mask_history: bool) -> np.ndarray:
        """Rank of each row's target in the beam, from 1; 0 where the beam misses it: int64 [n]."""
        ranked = self.rank(rows, self.config.stages.evaluate.beam, mask_history)
        hits = ranked.items == targets(self.materials.corpus, rows)[:, None]
        return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)

    def invalid_beam_share(self, rows: np.ndarray) -> float:
        """Share of an unconstrained beam's sequences that name no item of the catalogue."""
        invalid = total = 0
        lengths = history_lengths(self.materials.corpus, rows)
        for batch in length_batches(lengths, self.config.stages.evaluate.batch):
            start = self._think(history_tokens(self.materials.corpus, rows[batch])[0]).branches
            beam = self.config.stages.evaluate.beam
            tokens, _ = free_beam_search(start, self.catalogue.levels, beam)
            invalid += int((self.catalogue.item_of_tokens(tokens) < 0).sum())
            total += tokens.shape[0] * tokens.shape[1]
        return invalid / max(total, 1)

    def _think(self, history: np.ndarray) -> Thinking:
        """What is decoded before the items of history tokens int64 [n, S]."""
        tokens = torch.from_numpy(history).to(self.device)
        prompts = self.engine.read(tokens, "thinking" if self.steps else "direct")
        return think_greedily(self.engine, prompts, self.steps)

    def _histories(self, rows: np.ndarray) -> Tensor:
        """All earlier items of each row, not only those the model sees: int64 [n, X], padded with -1."""
        corpus = self.materials.corpus
        longest = int(rows[:, 1].max(initial=0))
        place = np.arange(longest)
        inside = place < rows[:, 1:2]
        where = np.where(inside, corpus.offsets[rows[:, 0]][:, None] + place, 0)
        return torch.from_numpy(np.where(inside, corpus.items[where].astype(np.int64), -1)).to(self.device)
