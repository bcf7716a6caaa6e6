"""The benchmark of semantic ids on a set that takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPO


def write_set(folder: Path, items: int = 40, users: int = 30) -> None:
    """Users who walk through the items, in the LC-Rec layout."""
    folder.mkdir(parents=True)
    walks = {str(user): [(user + step) % items for step in range(6)] for user in range(users)}
    texts = {str(item): {"title": f"thing {item} of kind {item % 4}"} for item in range(items)}
    (folder / f"{folder.name}.inter.json").write_text(json.dumps(walks))
    (folder / f"{folder.name}.item.json").write_text(json.dumps(texts))


def run(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    places = [
        "--data",
        str(tmp_path / "data"),
        "--cache",
        str(tmp_path / "cache"),
        "--out",
        str(tmp_path / "out"),
    ]
    size = ["--sets", "Walks", "--seeds", "1", "--steps", "3", "--users", "20", "--hardware", "a machine"]
    command = [sys.executable, str(REPO / "benchmarks" / "semantic_ids.py"), *places, *size, *options]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_a_row_a_method_and_none_made_twice(tmp_path: Path):
    write_set(tmp_path / "data" / "Walks")
    ran = run(tmp_path, "--methods", "kmeans-digit", "rqvae-joined")
    assert ran.returncode == 0, ran.stderr
    rows = json.loads((tmp_path / "out").read_text())
    assert [(row["set"], row["method"], row["seed"], row["steps"]) for row in rows] == [
        ("Walks", "kmeans-digit", 1, 3),
        ("Walks", "rqvae-joined", 1, 3),
    ]
    for row in rows:
        assert len(row["codes_used"]) == len(row["perplexity"]) == 4
        assert 0 <= row["surplus_share"] < 1
        assert 0 <= row["direct_ndcg@10"] <= row["direct_recall@10"] <= 1
        assert row["users"] == 20 and row["hardware"] == "a machine"
    assert "| Walks | rqvae-joined | 1 |" in ran.stdout
    again = run(tmp_path, "--methods", "rqvae-joined")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "out").read_text()) == rows
