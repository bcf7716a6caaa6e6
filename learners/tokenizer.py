"""The learner ranks of the tokenize stage: they train the tokenizer together, and the first makes the ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray

from learners.ranks import Rank, RankGroup
from streamrec_dist.config import Config, LearnersConfig
from streamrec_dist.events import Event
from streamrec_dist.rl.ports import Task
from streamrec_dist.stages.tokenize import Clock, Tokenized, fit_tokenizer, item_vectors, make_ids, take_ids


class TokenizerRank(Rank):
    """One rank; `store` gets the progress."""

    def __init__(self, config: Config, store: Any):
        super().__init__(config)
        self.config, self.store = config, store

    @ray.method(num_returns=2)
    def tokenize(
        self, embeddings: np.ndarray, items: np.ndarray, offsets: np.ndarray, given: np.ndarray | None
    ) -> tuple[dict[str, Any], Tokenized | None]:
        """The report, and what was made of the items, of the first rank only. `given` ids are taken as they are."""
        clock = Clock()
        vectors = item_vectors(embeddings, items, offsets, self.config)
        clock.lap("vectors")
        if given is None:
            with self.together():
                model = fit_tokenizer(vectors, self.config, self._emit, self.device)
            clock.lap("tokenizer")
        if self.rank > 0:
            return {}, None
        if given is None:
            tokenized = make_ids(vectors, model, self.config, clock)
        else:
            tokenized = take_ids(vectors, given, self.config, clock)
        return tokenized.report, tokenized

    def _emit(self, progress: dict[str, Any]) -> None:
        if self.rank == 0:
            metrics = {name: progress[name] for name in ("loss", "recon", "used_codes")}
            event = Event("step", "tokenize", progress["epoch"], progress["epochs"], metrics=metrics)
            self.store.emit.remote(event)


class TokenizerGroup(RankGroup):
    """All ranks as one."""

    def __init__(self, learners: LearnersConfig, config: Config, store: Any, **options: Any):
        """`options` are those of a RankGroup."""
        super().__init__(TokenizerRank, learners, [config, store], **options)

    def tokenize(self, embeddings: Any, items: Any, offsets: Any, given: Any) -> Task:
        """All arguments by reference. Receipt: the report; payload: Tokenized."""
        refs = [rank.tokenize.remote(embeddings, items, offsets, given) for rank in self.ranks]
        return Task([receipt for receipt, _ in refs], refs[0][1])
