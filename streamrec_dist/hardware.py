"""What the machine's arithmetic is good at."""

from __future__ import annotations

import ctypes
import platform

import torch

from streamrec_dist.config import Config


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve_precision(config: Config, gpus: bool) -> Config:
    """Replace `precision: auto`: bf16 on GPUs and on CPUs with bf16 instructions, fp32 elsewhere.

    Without such instructions bf16 is emulated, several times slower than fp32. One place decides for the whole
    run, so that rollouts and learners round alike.
    """
    if config.model.precision != "auto":
        return config
    model = config.model.model_copy(update={"precision": "bf16" if gpus or cpu_has_bf16() else "fp32"})
    return config.model_copy(update={"model": model})


def use_cores(cpus: float) -> None:
    """Set torch up in a worker process that computes on `cpus` cores.

    A process with a share of a core gets one thread. Roles overlap, and where threads outnumber cores every
    parallel region waits for one that is not scheduled: two threads each on two busy cores measured ten times
    slower than one. Parallelism comes from replicas.
    """
    torch.set_num_threads(max(1, int(cpus)))
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep what a tensor frees instead of giving it back to the system, for this process.

    By default every block above 32 MB at most is mapped anew and its pages fault in one by one as it is written: a
    product of 20480 x 256 by 256 x 1024 then runs at 133 instead of 176 GFLOP/s (fp32, 2 cores of an AMD EPYC).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mmap_threshold, trim_threshold, top_pad = -3, -1, -2
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 2**30)
    libc.mallopt(trim_threshold, 2**30)
    libc.mallopt(top_pad, 64 * 2**20)
