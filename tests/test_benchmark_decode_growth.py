"""The benchmark of decoding's growth at sizes that take seconds, and the tools that it measures with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from streamrec_dist.config_file import parse_config
from streamrec_dist.model.backbone import StreamRec
from tests.conftest import REPO

SIZES = {
    "samples": [1, 2],
    "histories": [1, 2],
    "beams": [1, 3],
    "catalogues": [300, 900],
    "negatives": [1, 2],
}


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    import measure

    return measure


def test_every_part_has_a_row_a_size_and_a_ratio_to_the_first(tmp_path: Path):
    sizes = [word for name, values in SIZES.items() for word in (f"--{name}", *map(str, values))]
    small = ["--prompts", "2", "--group", "1", "--repeats", "1", "--threads", "1", "--hardware", "a machine"]
    command = [sys.executable, str(REPO / "benchmarks" / "decode_growth.py"), "--json", *small, *sizes]
    ran = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout.splitlines()[-1])
    assert result["hardware"] == "a machine"
    ways = result["parts"].pop("thoughts")
    assert [row["way"] for row in ways] == ["direct", "greedy", "sampled", "beam"]
    firsts = dict(zip(result["parts"], ("samples", "history", "beam", "items", "negatives"), strict=True))
    for (part, rows), sized in zip(result["parts"].items(), SIZES.values(), strict=True):
        assert [row[firsts[part]] for row in rows] == sized
        assert rows[0]["ratio"] == 1
        assert rows[1]["ratio"] == pytest.approx(rows[1]["seconds"] / rows[0]["seconds"])
        assert part == "catalogues" or rows[1]["gflop"] > rows[0]["gflop"]
    one, two = result["parts"]["samples"]
    assert one["saved_share"] == 0
    assert two["saved_share"] == pytest.approx(two["shared_share"] / 2)
    few, many = result["parts"]["catalogues"]
    assert many["catalogue_bytes"] > 2 * few["catalogue_bytes"]
    assert few["search_bytes"] > 0


def test_peak_bytes_are_those_held_at_once(measure):
    outside = torch.zeros(1000)
    with measure.PeakBytes() as held:
        first = torch.zeros(1000)
        view = first[10:]
        del first
        second = view + 1  # two at once
        del view
        second.add_(1)
        outside.add_(1)
        third = torch.zeros(500)  # fits into what the first left
    assert held.peak == 4 * (1000 + 990)
    assert third.numel() == 500


def test_counted_operations_are_those_of_the_matrices(measure):
    config = parse_config(
        "items: {levels: 4, codes: 8}\n"
        "model: {evidence: 0, d_model: 16, layers: 2, heads: 2, d_head: 4, d_ff: 32}",
        "test",
    )
    model = StreamRec(config)

    def weights(module: torch.nn.Module, *without: str) -> int:
        matrices = [(n, p) for n, p in module.named_parameters() if p.ndim == 2 and "bias" not in n]
        return sum(p.numel() for n, p in matrices if not any(part in n for part in without))

    keys_values = sum(layer.cross.kv.weight.numel() for layer in model.decoder.layers)
    assert measure.reading_flop(config, 3) == 2 * 3 * (weights(model.encoder) + keys_values)
    decoder = weights(model.decoder, ".kv.") + model.code_table.numel()
    assert measure.decoding_flop(config, 5) == 2 * 5 * decoder
    assert measure.rollout_flop(config, 2, 3, 7) == measure.reading_flop(config, 56) + (
        measure.decoding_flop(config, 60)
    )
