"""What every role needs to know about the data set: histories, ids, text neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from streamrec_dist.baselines.item_model import ItemModel
from streamrec_dist.baselines.models import new_item_model
from streamrec_dist.config import Config
from streamrec_dist.data.batches import Corpus, history_items, history_tokens, targets
from streamrec_dist.data.evidence import EvidenceTable, along_leaves, no_evidence
from streamrec_dist.data.row_counts import Cooccurrence, counts_of_histories, counts_of_rows, padded
from streamrec_dist.data.split import last_rows_behind
from streamrec_dist.errors import DataError
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.model.retriever import Retriever

Model = TypeVar("Model", bound=nn.Module)
#: Items of the counts that the retriever is told of.
COUNTED = 256


@dataclass(frozen=True, eq=False)
class Materials:
    """Plain arrays, shared by all processes of a machine through the object store.

    Raises DataError for ids of other levels or codes than the configuration's.
    """

    config: Config
    corpus: Corpus
    neighbours: np.ndarray  # int32 [n_items, k], nearest first
    rows: np.ndarray  # int64 [rows, 2], the training rows (user, position of the target), kept ones last
    counts: Cooccurrence | None = None  # for stage retrieve: how often items stand together
    texts: np.ndarray | None = None  # for stage retrieve: float32 [n_items, dim], what their texts say
    evidence: EvidenceTable | None = None  # for the stages after it: what it found
    kept: int = 0  # rows that stages 1 and 2 leave for the prompts of stage 3

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

    @property
    def first_prompt(self) -> int:
        """The number of the first row that is a prompt of stage 3; all behind it are."""
        return len(self.rows) - self.kept if self.kept else 0

    @property
    def supervised(self) -> np.ndarray:
        """The rows of stages 1 and 2, int64 [n, 2]: the first of all rows."""
        return self.rows[: len(self.rows) - self.kept]

    def prompts(self, rows: np.ndarray) -> list[np.ndarray]:
        """What the recommender reads of rows int64 [n, 2] (user, position).

        History tokens int64 [n, S], padded with 0, and their evidence as `StreamRec.guide` takes it, of no items
        where the run has none.
        """
        tokens, _ = history_tokens(self.corpus, rows)
        if self.evidence is None:
            return [tokens, *self.laid_out(*no_evidence(len(rows)))]
        return [tokens, *self.laid_out(*self.evidence.of(self.corpus, rows))]

    def laid_out(self, items: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Likely items int [n, K], distinct, and their probabilities float [n, K], along the leaves of the trie."""
        return along_leaves(items, share, self._place_of)

    def item_prompts(self, rows: np.ndarray, counted: bool = True) -> list[np.ndarray]:
        """What a model over item ids reads of rows int64 [n, 2]: histories int64 [n, L] of items, padded with -1.

        With `counted` also the items that the counts speak for int64 [n, K], and their mass float32 [n, K]. Raises
        DataError where there are no counts, as in the stages other than retrieve.
        """
        corpus = self.corpus
        history, _ = history_items(corpus.items, corpus.offsets, rows, corpus.max_history)
        if not counted:
            return [history]
        return [history, *padded(counts_of_rows(self._given_counts, corpus, rows, COUNTED), COUNTED)]

    def item_prompt_of(self, history: np.ndarray) -> list[np.ndarray]:
        """The same, with counts, of one history int64 [length] of items, oldest first. Raises DataError likewise."""
        seen = history[-self.corpus.max_history :][None].astype(np.int64)
        return [seen, *padded(counts_of_histories(self._given_counts, seen, COUNTED), COUNTED)]

    @property
    def _given_counts(self) -> Cooccurrence:
        if self.counts is None:
            raise DataError(
                "a retriever needs counts of items that stand together, which only stage retrieve is given"
            )
        return self.counts

    @cached_property
    def folds(self) -> np.ndarray:
        """The fold of each training row's user, int64 [rows]; as many users in each, to one."""
        users, user = np.unique(self.rows[:, 0], return_inverse=True)
        dealt = np.random.default_rng([self.config.seed, 7]).permutation(len(users))
        return dealt[user] % self.config.stages.retrieve.folds

    @cached_property
    def _place_of(self) -> np.ndarray:
        """The leaf of each item in the trie, int64 [n_items]."""
        return np.argsort(self.catalogue.leaf_item.numpy())

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.corpus.codes, self.corpus.codes_per_level)

    def new_model(self) -> StreamRec:
        """The model of this configuration, initialised from its seed: equal in every process."""
        return self._initialised(lambda: StreamRec(self.config))

    def new_item_model(self, name: str) -> ItemModel:
        """The retriever (`retrieve`) or a baseline of `ITEM_MODELS`, likewise."""
        if name == "retrieve":
            return self.new_retriever()
        return self._initialised(lambda: new_item_model(name, self.config, self.corpus.n_items))

    def new_retriever(self) -> Retriever:
        """The retriever, likewise. Raises DataError where there are no texts for it, as in the other stages."""
        texts = self.texts
        if texts is None:
            raise DataError(
                "a retriever needs the items' text embeddings, which only stage retrieve is given"
            )
        return self._initialised(lambda: Retriever(self.config, self.corpus.n_items, texts))

    def _initialised(self, make: Callable[[], Model]) -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return make()


def laid_rows(
    config: Config, corpus: Corpus, rows: np.ndarray, evidence: EvidenceTable | None
) -> tuple[np.ndarray, int]:
    """Training rows int64 [n, 2] in the order of Materials, and how many are kept, as stages.rl.rows says.

    A target that evidence does not name will hardly come to the top, whatever is thought: what such a row teaches is
    to trust evidence less. It is no prompt, unless there are no others.
    """
    if config.stages.rl.rows == "all":
        return rows, 0
    rows, kept = last_rows_behind(rows)
    if config.stages.rl.rows == "last" or evidence is None:
        return rows, kept
    left = rows[len(rows) - kept :]
    items, share = evidence.of(corpus, left)
    named = ((items == targets(corpus, left)[:, None]) & (share > 0)).any(axis=1)
    if not named.any():
        return rows, kept
    return np.concatenate([rows[: len(rows) - kept], left[~named], left[named]]), int(named.sum())


def arithmetic(config: Config) -> torch.dtype:
    """The type that all roles multiply in, so that their log-probabilities differ by rounding only."""
    return torch.bfloat16 if config.model.precision == "bf16" else torch.float32


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """That arithmetic for the modules of a model that is trained."""
    enabled = arithmetic(config) == torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
