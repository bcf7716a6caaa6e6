"""A model of the paper's size with random weights, and random ids and histories."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from measure import DTYPES, LEVELS, times
from torch import Tensor

from streamrec_dist.config_file import parse_config
from streamrec_dist.decode.engine import Engine
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.tokens import FIRST_CODE


class Subject:
    """The model, its engine and random histories."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.config = parse_config("model: {softmax: codes}", "benchmark")
        self.codes = self.config.items.codes
        torch.manual_seed(0)
        self.model = StreamRec(self.config).to(self.device).eval()
        self.engine = Engine(self.model, DTYPES[arguments.dtype])

    def seconds(self, work: Callable[[], object]) -> float:
        """Median seconds of `work`."""
        return times(self.device, self.arguments.repeats, work)[0]

    def histories(self, prompts: int, items: int) -> Tensor:
        """Histories of random items: int64 [prompts, items * m]."""
        codes = np.random.default_rng(0).integers(0, self.codes, (prompts, items, LEVELS))
        return self.tokens(codes).flatten(1)

    def tokens(self, codes: np.ndarray) -> Tensor:
        """Codes [..., m] -> code tokens int64 [..., m]."""
        tokens = codes + FIRST_CODE + np.arange(LEVELS) * self.codes
        return torch.from_numpy(tokens.astype(np.int64)).to(self.device)

    def ids(self, items: int) -> np.ndarray:
        """Distinct random ids int64 [items, m], in random order."""
        rng = np.random.default_rng(0)
        keys = np.unique(rng.integers(0, self.codes**LEVELS, items + items // 50 + 100))
        keys = rng.permutation(keys)[:items]
        return np.stack([keys // self.codes**level % self.codes for level in range(LEVELS)], axis=1)
