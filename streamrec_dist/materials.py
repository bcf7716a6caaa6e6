"""What every role needs to know about the data set: histories, ids, text neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from streamrec_dist.config import Config
from streamrec_dist.data.batches import Corpus
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
