"""What catalogues of 10 thousand to 10 million items cost: memory, building, and decoding in each way over them.

    python benchmarks/catalogue.py --json
    python benchmarks/catalogue.py --items 10000000 --codes 1024 --device cuda --json

Random distinct ids of 4 levels, a model of the paper's size with random weights, histories of 20 items, 4 thoughts.
Times are medians. Prints one JSON object last with --json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from streamrec_dist.config_file import parse_config
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.search import Plan, search
from streamrec_dist.hardware import keep_freed_memory
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.tokens import FIRST_CODE

LEVELS, HISTORY, THOUGHTS = 4, 20, 4
MIB = 2**20


def random_ids(items: int, codes: int) -> np.ndarray:
    """Distinct ids int32 [items, LEVELS] in random order."""
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, codes**LEVELS, items + items // 10 + 1000))
    keys = rng.permutation(keys)[:items]
    return np.stack([keys // codes**level % codes for level in reversed(range(LEVELS))], 1).astype(np.int32)


def held(catalogue: Catalogue) -> int:
    """Bytes of a catalogue's tables."""
    tables = [catalogue.leaf_item, *catalogue.child_code, *catalogue.children_start]
    return sum(table.nbytes for table in tables)


def median_ms(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median time of `work` after one run that is not counted."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times[1:])


def measure(items: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One size of catalogue."""
    device, beam = torch.device(arguments.device), arguments.beam
    ids = random_ids(items, arguments.codes)
    begun = time.perf_counter()
    catalogue = Catalogue(ids, arguments.codes)
    row = {"items": items, "build_s": round(time.perf_counter() - begun, 2)}
    row |= {"mib": round(held(catalogue) / MIB, 1), "max_children": catalogue.max_children}
    catalogue = catalogue.to(device)
    torch.manual_seed(0)
    config = parse_config(f"items: {{levels: {LEVELS}, codes: {arguments.codes}}}", "benchmark")
    engine = Engine(StreamRec(config).to(device).eval(), torch.bfloat16 if arguments.bf16 else torch.float32)
    last = FIRST_CODE + LEVELS * arguments.codes
    history = torch.randint(FIRST_CODE, last, (arguments.prompts, HISTORY * LEVELS), device=device)
    plans = [Plan(), Plan("greedy", THOUGHTS), Plan("sampled", THOUGHTS, arguments.samples)]
    for plan in [*plans, Plan("beam", THOUGHTS)]:
        # As many rows for each plan, as the stages do.
        some = history[: max(1, len(history) // plan.rows)]
        prompts = engine.read(some, "thinking" if plan.steps else "direct")
        draws = rollout_uniforms(0, np.arange(len(some)), plan.rows, plan.steps)
        uniforms = torch.from_numpy(draws).to(device)
        run = lambda: search(engine, prompts, catalogue, beam, plan, uniforms)  # noqa: B023, E731
        name = plan.thoughts if plan.steps else "direct"
        row[f"{name}_ms_a_prompt"] = round(median_ms(run, device, arguments.repeats) / len(some), 3)
    return row


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    rows = []
    for items in arguments.items:
        rows.append(measure(items, arguments))
        print(json.dumps(rows[-1]), flush=True)
    settings = {name: value for name, value in vars(arguments).items() if name not in ("items", "json")}
    if arguments.json:
        print(json.dumps({"rows": rows, "torch": torch.__version__, **settings}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", nargs="+", type=int, default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--codes", type=int, default=256, help="codes of each of the 4 levels")
    parser.add_argument("--beam", type=int, default=20)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
