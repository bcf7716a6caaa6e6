"""How fast `data prepare` is and how much memory it takes, and how both grow with the data.

    python benchmarks/prepare.py [--interactions 2000000 10000000 50000000] [--json]

Interactions are synthetic: users drawn evenly, items by a Zipf law, times at random, so that nothing is in order. Of
each size the 5-core is made by a process of its own, which may use two cores. Peak memory is the kernel's count for
that process (VmHWM), which includes pages of memory-mapped files that it would give back if memory were short;
`anonymous` is the part that it would not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

CHUNK = 2_000_000
CORES = 2
SAMPLE_S = 0.05
DECADE_MS = 10 * 365 * 86_400_000
#: Odd, so that multiplying by it modulo a power of two scrambles numbers and keeps them apart.
SCRAMBLE = 2_862_933_555_777_941_757


def ids(numbers: np.ndarray, letter: str) -> pa.Array:
    """Ids of 14 characters in no order, as shops have them."""
    scrambled = numbers.astype(np.uint64) * np.uint64(SCRAMBLE) % np.uint64(1 << 43)
    return (letter + pl.Series(scrambled).cast(pl.String).str.zfill(13)).to_arrow().cast(pa.large_string())


def write_data(folder: Path, interactions: int, users: int, items: int) -> None:
    """interactions.parquet and items.parquet, a chunk at a time."""
    rng = np.random.default_rng(0)
    schema = pa.schema([("user", pa.large_string()), ("item", pa.large_string()), ("timestamp", pa.int64())])
    with pq.ParquetWriter(folder / "interactions.parquet", schema) as writer:
        for start in range(0, interactions, CHUNK):
            count = min(CHUNK, interactions - start)
            # The inverse of the cumulative 1/rank law.
            ranks = np.exp(rng.random(count) * np.log(items)).astype(np.int64) - 1
            columns = [
                ids(rng.integers(0, users, count), "A"),
                ids(np.minimum(ranks, items - 1), "B"),
                pa.array(1_400_000_000_000 + rng.integers(0, DECADE_MS, count)),
            ]
            writer.write_table(pa.table(columns, schema=schema))
    schema = pa.schema(
        [("item", pa.large_string()), ("title", pa.large_string()), ("brand", pa.large_string())]
    )
    with pq.ParquetWriter(folder / "items.parquet", schema) as writer:
        for start in range(0, items, CHUNK):
            numbers = np.arange(start, min(start + CHUNK, items))
            titles = pl.format("Product {} with a title of usual length, in grey", pl.Series(numbers))
            columns = [ids(numbers, "B"), pl.select(titles).to_series().to_arrow().cast(pa.large_string())]
            brands = (pl.lit("Brand ") + pl.Series(numbers % 997).cast(pl.String)).alias("brand")
            columns.append(pl.select(brands).to_series().to_arrow().cast(pa.large_string()))
            writer.write_table(pa.table(columns, schema=schema))


def memory(field: str) -> int:
    """A line of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def child(folder: Path, out: Path, core: int) -> None:
    """Prepares and prints what it took, as one JSON object."""
    from streamrec_dist.data.files import load_dataset
    from streamrec_dist.data.prepare import prepare
    from streamrec_dist.data.recipes import Recipe

    peak, done = [0], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            peak[0] = max(peak[0], memory("RssAnon"))

    threading.Thread(target=sample, daemon=True).start()
    before = memory("VmRSS")
    parts: list[tuple[str, float]] = []
    began = time.perf_counter()
    recipe = Recipe("parquet", user_core=core, item_core=core)
    dataset = prepare(
        folder, "parquet", out, recipe=recipe, say=lambda part: parts.append((part, time.perf_counter()))
    )
    ended = time.perf_counter()
    done.set()
    highest = memory("VmHWM")
    seconds = {
        name: round(after - start, 2)
        for (name, start), (_, after) in zip(parts, [*parts[1:], ("", ended)], strict=True)
    }
    opening = {}
    for name, verify in (("open", False), ("verify", True)):
        started = time.perf_counter()
        load_dataset(out, verify)
        opening[name] = round(time.perf_counter() - started, 3)
    kept = {name: dataset.figures[name] for name in ("users", "items", "interactions")}
    bytes_on_disk = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(
        json.dumps(
            {
                "seconds": round(ended - began, 2),
                "seconds_by_part": seconds,
                "peak_rss": highest,
                "peak_anonymous": peak[0],
                "rss_before": before,
                "kept": kept,
                "bytes_on_disk": bytes_on_disk,
                "open_seconds": opening,
            }
        )
    )


def measure(interactions: int, users: int, items: int, core: int, folder: Path | None) -> dict[str, Any]:
    """One size: data made in a temporary folder, prepared by a fresh process on CORES cores."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        raw, out = Path(made) / "raw", Path(made) / "out"
        raw.mkdir()
        write_data(raw, interactions, users, items)
        command = [sys.executable, __file__, "--child", str(raw), str(out), "--core", str(core)]
        environment = {**os.environ, "POLARS_MAX_THREADS": str(CORES)}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, preexec_fn=_few_cores)
        if ran.returncode:
            raise SystemExit(f"preparing {interactions:,} interactions failed:\n{ran.stderr}")
        found = json.loads(ran.stdout.splitlines()[-1])
    given = {"interactions": interactions, "users": users, "items": items}
    return {**given, "rows_per_second": round(interactions / found["seconds"]), **found}


def _few_cores() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--interactions", type=int, nargs="+", default=[2_000_000, 10_000_000, 50_000_000])
    parser.add_argument("--users", type=int, nargs="+", help="default: a tenth of the interactions")
    parser.add_argument("--items", type=int, nargs="+", help="default: a fiftieth of the interactions")
    parser.add_argument("--core", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the temporary data go")
    parser.add_argument("--json", action="store_true", help="one object on the last line")
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(*chosen.child, chosen.core)
        return
    users = chosen.users or [size // 10 for size in chosen.interactions]
    items = chosen.items or [size // 50 for size in chosen.interactions]
    results = []
    print(
        f"{'interactions':>13} {'rows/s':>10} {'seconds':>8} {'peak GiB':>9} {'anonymous':>9}  seconds by part"
    )
    for size in zip(chosen.interactions, users, items, strict=True):
        found = measure(*size, chosen.core, chosen.folder)
        results.append(found)
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found["seconds_by_part"].items())
        peak, anonymous = (found[name] / 2**30 for name in ("peak_rss", "peak_anonymous"))
        speed = f"{size[0]:>13,} {found['rows_per_second']:>10,} {found['seconds']:>8.1f}"
        print(f"{speed} {peak:>9.2f} {anonymous:>9.2f}  {parts}", flush=True)
    for one, two in pairwise(results):
        grown = [two[name] / one[name] for name in ("interactions", "seconds", "peak_rss")]
        print(
            "{:.1f} times the interactions: {:.1f} times the seconds, {:.1f} times the memory".format(*grown)
        )
    if chosen.json:
        hardware = f"{platform.processor() or platform.machine()}, {CORES} cores"
        print(json.dumps({"core": chosen.core, "hardware": hardware, "results": results}))


if __name__ == "__main__":
    main()
