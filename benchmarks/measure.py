"""What the benchmarks measure with: a clock, the rate of matrix products, counted operations, live memory."""

from __future__ import annotations

import os
import platform
import statistics
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from streamrec_dist.config import Config
from streamrec_dist.hardware import keep_freed_memory

#: Items of a full history, thinking steps and levels of an id, as in the paper.
HISTORY, THOUGHTS, LEVELS = 20, 6, 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def begin(threads: int) -> None:
    """Set this process up as workers are."""
    torch.set_num_threads(threads)
    keep_freed_memory()


def hardware(given: str, device: torch.device, threads: int) -> str:
    """What this runs on, for the record: `given`, or what the machine says."""
    if given:
        return given
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {threads} threads"


def machine() -> str:
    """`hardware` of a benchmark that trains on whatever the machine has."""
    return hardware("", torch.device("cuda" if torch.cuda.is_available() else "cpu"), os.cpu_count() or 1)


def _processor() -> str:
    """The model's name where Linux tells it, else the architecture."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def times(device: torch.device, repeats: int, *works: Callable[[], object]) -> list[float]:
    """Median seconds of each of `works`, run in turns."""
    seconds: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 1):
        for work, kept in zip(works, seconds, strict=True):
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first turn warms up
                kept.append(time.perf_counter() - started)
    return [statistics.median(kept) for kept in seconds]


def gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP a second of the fastest of three matrix products."""
    best = 0.0
    for n, k, m in ((1024, 1024, 1024), (4096, 4096, 4096), (20480, 256, 1024)):
        x, w = (torch.randn(*shape, dtype=dtype, device=device) for shape in ((n, k), (k, m)))
        out = torch.empty(n, m, dtype=dtype, device=device)
        best = max(best, 2 * n * k * m / times(device, 5, lambda: torch.mm(x, w, out=out))[0])  # noqa: B023
    return best


# Operations of the products with weights; those of queries with keys are left out.


def reading_flop(config: Config, tokens: int) -> float:
    """Operations of encoding `tokens` history tokens, and of their keys and values in one decoder."""
    model = config.model
    inner, d = model.heads * model.d_head, model.d_model
    encoder = model.layers * (4 * d * inner + 2 * d * model.d_ff)
    return 2.0 * tokens * (encoder + model.layers * 2 * d * inner)


def decoding_flop(config: Config, tokens: int) -> float:
    """Operations of `tokens` decoded tokens, each with the logits of the next."""
    model = config.model
    inner, d = model.heads * model.d_head, model.d_model
    decoder = model.layers * (6 * d * inner + 2 * d * model.d_ff)
    return 2.0 * tokens * (decoder + d * config.items.levels * config.items.codes)


def rollout_flop(config: Config, prompts: int, group: int, history: int = HISTORY) -> float:
    """Operations of `group` samples of thoughts and an item for each prompt of `history` items."""
    sampled = decoding_flop(config, prompts * group * (THOUGHTS + LEVELS))
    return reading_flop(config, prompts * history * LEVELS) + sampled


def tensor_bytes(holder: Any) -> int:
    """Bytes of all tensors in a dictionary of tensors and lists of them."""
    if isinstance(holder, Tensor):
        return holder.untyped_storage().nbytes()
    inside = holder.values() if isinstance(holder, dict) else holder if isinstance(holder, list) else ()
    return sum(tensor_bytes(value) for value in inside)


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors made in this context held at once: `peak`. Views share their storage."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {self._place(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._see(leaf, given)
        return made

    @staticmethod
    def _place(tensor: Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def _see(self, tensor: Tensor, given: set[int]) -> None:
        storage, place = tensor.untyped_storage(), self._place(tensor)
        if place in self._sizes or place in given:
            return
        self._sizes[place] = storage.nbytes()
        self._now += self._sizes[place]
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._gone, place)

    def _gone(self, place: int) -> None:
        self._now -= self._sizes.pop(place)
