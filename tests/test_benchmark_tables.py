"""The tables that the long benchmarks print from the rows they keep."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPO


def printed(script: str, *arguments: str) -> list[str]:
    command = [sys.executable, f"benchmarks/{script}", *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def row(model: str, seed: int, masked: bool, ndcg: float, **more: object) -> dict[str, object]:
    ends = {"ndcg@10_ci": [ndcg - 0.01, ndcg + 0.01], "recall@10": 2 * ndcg, "recall@10_ci": [0.0, 0.5]}
    key = {"set": "Toy", "model": model, "stage": model, "seed": seed, "masked": masked, "split": "test"}
    return key | ends | {"ndcg@10": ndcg, "users": 9, "minutes": 4.0 * seed} | more


def test_one_seed_has_its_interval_and_several_their_range(tmp_path: Path) -> None:
    rows = [
        row("rl", seed, masked, 0.02 * seed + 0.1 * masked) for seed in (1, 2) for masked in (False, True)
    ]
    rows += [row("counting", 1, False, 0.03), row("rl", 1, False, 0.9, set="Other")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    lines = printed("science.py", "--set", "Toy", "--table", "--out", str(tmp_path / "rows.json"))
    assert lines[2:] == [
        "| counting (no training) | .0600 [.0000 .5000] | .0300 [.0200 .0400] |  |  | 1 | 4 |",
        "| after RL | .0600 [.0400 .0800] | .0300 [.0200 .0400] "
        "| .2600 [.2400 .2800] | .1300 [.1200 .1400] | 2 | 6 |",
    ]
