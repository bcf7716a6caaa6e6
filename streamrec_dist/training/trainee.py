"""What a learner trains in a stage: a model, its loss, what of it stays frozen, and the batches it learns from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from streamrec_dist.baselines.config import ItemModelConfig, TigerConfig
from streamrec_dist.config import Config, PretrainConfig, RlConfig, SftConfig
from streamrec_dist.data.batches import history_lengths, micro_batches
from streamrec_dist.materials import Materials
from streamrec_dist.model.backbone import StreamRec

StageConfig = ItemModelConfig | TigerConfig | PretrainConfig | SftConfig | RlConfig


class Trainee:
    """The part of a learner that a stage decides. A subclass makes the model, the loss and the batches."""

    #: Prefixes of the parameters that are left alone.
    frozen: tuple[str, ...] = ()
    #: Where only some are trained, the prefixes of these.
    only: tuple[str, ...] = ("",)
    model: nn.Module

    def __init__(self, materials: Materials, device: torch.device):
        self.materials, self.device = materials, device

    @property
    def config(self) -> StageConfig:
        """The stage's section of the configuration."""
        raise NotImplementedError

    def started(self) -> nn.Module:
        """The loss, when the model has the weights that the stage starts from: a module that takes a batch and gives
        a scalar and metrics."""
        raise NotImplementedError

    @property
    def rows(self) -> np.ndarray:
        """The rows (user, position) that are trained on, int64 [rows, 2]."""
        return self.materials.rows

    def parts(self, mine: np.ndarray, step: np.ndarray) -> list[Any]:
        """Batches of an optimizer step on the rows numbered `step` int64 of all ranks, `mine` of them this rank's.

        Passed over one after the other, at most learners.pass_tokens history tokens each.
        """
        rows = self.rows[mine]
        return [self.batch(rows[part], len(part) / len(mine)) for part in self.micro_batches(rows)]

    def batch(self, rows: np.ndarray, share: float) -> Any:
        """Rows int64 [b, 2], this `share` of a rank's in the optimizer step, as the loss takes them."""
        raise NotImplementedError

    def micro_batches(self, rows: np.ndarray) -> list[np.ndarray]:
        """Places of `rows` int64 [n, 2] in parts that fit learners.pass_tokens."""
        lengths = history_lengths(self.materials.corpus, rows) * self.materials.corpus.levels
        return micro_batches(lengths, self.whole_config.learners.pass_tokens)

    @property
    def whole_config(self) -> Config:
        return self.materials.config


class RecommenderTrainee(Trainee):
    """One whose model is the recommender, or a part of it."""

    model: StreamRec

    def __init__(self, materials: Materials, device: torch.device):
        super().__init__(materials, device)
        self.model = materials.new_model().to(device)
        self.catalogue = materials.catalogue.to(device)
