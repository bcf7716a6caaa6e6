"""What every role needs to know about the data set: histories, ids, text neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import sparse

from streamrec_dist.config import Config
from streamrec_dist.data.batches import Corpus, history_tokens
from streamrec_dist.data.evidence import (
    Cooccurrence,
    along_leaves,
    evidence_of_histories,
    evidence_of_rows,
)
from streamrec_dist.errors import DataError
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import StreamRec


@dataclass(frozen=True, eq=False)
class Materials:
    """Plain arrays, shared by all processes of a machine through the object store.

    Raises DataError for ids of other levels or codes than the configuration's.
    """

    config: Config
    corpus: Corpus
    neighbours: np.ndarray  # int32 [n_items, k], nearest first
    rows: np.ndarray  # int64 [rows, 2], the training rows (user, position of the target)
    counts: Cooccurrence | None = None  # where the configuration has evidence

    def __post_init__(self) -> None:
        self._check_ids(self.config.items.levels, self.config.items.codes, "the configuration")

    def check_model(self, model: StreamRec) -> None:
        """Raise DataError for a model that writes ids of other levels or codes than the items have."""
        self._check_ids(model.levels, model.codes, "the model")

    def _check_ids(self, levels: int, codes: int, whose: str) -> None:
        corpus = self.corpus
        if (corpus.levels, corpus.codes_per_level) != (levels, codes):
            raise DataError(
                f"the items' semantic ids have {corpus.levels} levels of {corpus.codes_per_level} codes, {whose} has "
                f"{levels} of {codes}; give items.levels and items.codes the values that the ids were made with, or "
                "run stage tokenize and the stages after it again"
            )

    def prompts(self, rows: np.ndarray) -> list[np.ndarray]:
        """What the model reads of rows int64 [n, 2] (user, position): their history tokens int64 [n, S], padded with
        0, and their evidence (data/evidence.py), empty where there is none."""
        tokens, _ = history_tokens(self.corpus, rows)
        if self.counts is None:
            return [tokens, *self._laid_out(None, len(rows))]
        most = self.config.model.evidence
        return [
            tokens,
            *self._laid_out(evidence_of_rows(self.counts, self.corpus, rows, most), len(rows)),
        ]

    def prompt_of(self, history: np.ndarray) -> list[np.ndarray]:
        """The same of one history int64 [length] of items, oldest first."""
        seen = history[-self.corpus.max_history :][None]
        mass = None
        if self.counts is not None:
            mass = evidence_of_histories(self.counts, seen, self.config.model.evidence)
        return [self.corpus.item_tokens(seen).reshape(1, -1), *self._laid_out(mass, 1)]

    def _laid_out(self, mass: sparse.csr_array | None, rows: int) -> tuple[np.ndarray, np.ndarray]:
        if mass is None:
            return np.zeros((rows, 0), dtype=np.int64), np.zeros((rows, 1), dtype=np.float32)
        return along_leaves(mass, self._place_of, self.config.model.evidence)

    @cached_property
    def _place_of(self) -> np.ndarray:
        """The leaf of each item in the trie, int64 [n_items]."""
        return np.argsort(self.catalogue.leaf_item.numpy())

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.corpus.codes, self.corpus.codes_per_level)

    def new_model(self) -> StreamRec:
        """The model of this configuration, initialised from its seed: equal in every process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return StreamRec(self.config)


def arithmetic(config: Config) -> torch.dtype:
    """The type that all roles multiply in, so that their log-probabilities differ by rounding only."""
    return torch.bfloat16 if config.model.precision == "bf16" else torch.float32


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """That arithmetic for the modules of a model that is trained."""
    enabled = arithmetic(config) == torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
