"""What is compared with `transformers`, and on what: the same weights in both, real items, one clock."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from measure import HISTORY, gemm_rate, times
from semantic_ids import inputs
from torch import Tensor

from streamrec_dist.config_file import parse_config
from streamrec_dist.data.batches import Corpus
from streamrec_dist.data.split import training_rows
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.items.foreign_ids import read_ids
from streamrec_dist.items.neighbours import nearest_neighbours
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.model.convert import to_t5

NEGATIVES = 50


class Bench:
    """What all figures share: model, data, and the clock."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        # What transformers computes: codes compete with all others.
        self.config = parse_config("model: {softmax: codes}", "benchmark")
        torch.manual_seed(0)
        self.model = StreamRec(self.config).to(self.device).eval()
        self.t5 = to_t5(self.model, self.config).to(self.device)
        dataset, embeddings = inputs(arguments, "Beauty")
        codes = read_ids(arguments.data / "Beauty" / "Beauty.index.json.gz").of(dataset.item_ids)
        # The 13 items that share another's id are of no account here, and a catalogue has none.
        _, first = np.unique(codes, axis=0, return_index=True)
        self.catalogue = Catalogue(codes[np.sort(first)], self.config.items.codes).to(self.device)
        self.corpus = Corpus.of(dataset, codes, self.config.items.codes, HISTORY)
        self.rows = training_rows(dataset)
        self.neighbours = nearest_neighbours(embeddings, NEGATIVES)

    def times(self, *works: Callable[[], object], repeats: int | None = None) -> list[float]:
        """Median seconds of each of `works`, run in turns."""
        return times(self.device, repeats or self.arguments.repeats, *works)

    def gemm_rate(self, dtype: torch.dtype) -> float:
        """FLOP a second of the fastest of three matrix products."""
        return gemm_rate(self.device, dtype)

    def full_histories(self, prompts: int) -> tuple[Tensor, np.ndarray]:
        """Histories of 20 real items int64 [prompts, 80], and a target item for each."""
        rng = np.random.default_rng(0)
        items = rng.integers(0, self.corpus.n_items, (prompts, HISTORY))
        tokens = self.corpus.item_tokens(items).reshape(prompts, -1)
        return torch.from_numpy(tokens).to(self.device), rng.integers(0, self.corpus.n_items, prompts)

    def best_setting(self, dtype: torch.dtype, work: Callable[[], object]) -> str:
        """Leave T5 in `dtype` and in the attention that does `work` fastest; returns its name."""
        self.t5.to(dtype)
        seconds = {}
        for attention in ("sdpa", "eager"):
            self.t5.set_attn_implementation(attention)
            seconds[attention] = self.times(work, repeats=1)[0]
        best = min(seconds, key=lambda name: seconds[name])
        self.t5.set_attn_implementation(best)
        return best
