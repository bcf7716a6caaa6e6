"""What the model's own CPU paths gain over torch's: attention, dropout, and one thread a process on busy cores.

    python benchmarks/cpu_kernels.py [--json]

Each ratio is time(torch's way) / time(ours), medians of alternating runs in this process; above 1 is a gain.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from streamrec_dist.model.layers import attend, dropout


def ratio(reference: Callable[[], object], ours: Callable[[], object], repeats: int = 9) -> float:
    """Median time of `reference` over that of `ours`, run in turns."""
    times: dict[Callable[[], object], list[float]] = {reference: [], ours: []}
    for repeat in range(repeats + 1):
        for work in (reference, ours):
            started = time.perf_counter()
            work()
            if repeat:  # the first turn warms up
                times[work].append(time.perf_counter() - started)
    return statistics.median(times[reference]) / statistics.median(times[ours])


def attention(rows: int, queries: int, keys: int, backward: bool) -> float:
    """Fused attention over ours, at 4 heads of 64 in bf16."""
    q = torch.randn(rows, 4, queries, 64, dtype=torch.bfloat16, requires_grad=backward)
    k, v = (torch.randn(rows, 4, keys, 64, dtype=torch.bfloat16, requires_grad=backward) for _ in range(2))
    bias = torch.randn(1, 4, queries, keys)

    def run(kernel: Callable[..., torch.Tensor]) -> None:
        with torch.set_grad_enabled(backward):
            out = kernel()
            if backward:
                out.sum().backward()

    fused = lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)  # noqa: E731
    return ratio(lambda: run(fused), lambda: run(lambda: attend(q, k, v, bias)))


def _work(threads: int, seconds: float, done) -> None:
    torch.set_num_threads(threads)
    x, w = torch.randn(2048, 256), torch.randn(1024, 256)
    F.relu(F.linear(x, w))
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        F.relu(F.linear(x, w))
        count += 1
    done.put(count)


def crowded_throughput(threads: int, seconds: float = 3.0) -> int:
    """Steps that one process a core gets done together, at this many threads each."""
    context = multiprocessing.get_context("spawn")
    done = context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(threads, seconds, done))
        for _ in range(multiprocessing.cpu_count())
    ]
    for worker in workers:
        worker.start()
    total = sum(done.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    x = torch.randn(256 * 80, 256)
    cores = multiprocessing.cpu_count()
    figures = {
        "attention_encode_backward": attention(256, 80, 80, backward=True),
        "attention_encode_forward": attention(256, 80, 80, backward=False),
        "attention_candidates": attention(256, 60, 70, backward=False),
        "attention_cross_step": attention(64, 16, 80, backward=False),
        "dropout": ratio(lambda: F.dropout(x, 0.1, True), lambda: dropout(x, 0.1, True)),
        "one_thread_over_all_when_crowded": crowded_throughput(1) / crowded_throughput(cores),
    }
    figures = {name: round(value, 2) for name, value in figures.items()}
    if arguments.json:
        hardware = f"{cores} x {platform.processor() or platform.machine()}"
        print(json.dumps({**figures, "torch": torch.__version__, "hardware": hardware}))
    else:
        for name, value in figures.items():
            print(f"{name:35s} {value:6.2f} x")


if __name__ == "__main__":
    main()
