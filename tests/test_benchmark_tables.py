"""The tables that the long benchmarks print from the rows they keep."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO


def printed(script: str, *arguments: str) -> list[str]:
    command = [sys.executable, f"benchmarks/{script}", *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["Scientific", "Beauty"])
def test_the_readme_has_the_rows_that_were_measured(name: str) -> None:
    shown = (REPO / "README.md").read_text().splitlines()
    assert [line for line in printed("science.py", "--set", name, "--table") if line not in shown] == []


def row(model: str, seed: int, masked: bool, ndcg: float, **more: object) -> dict[str, object]:
    ends = {"ndcg@10_ci": [ndcg - 0.01, ndcg + 0.01], "recall@10": 2 * ndcg, "recall@10_ci": [0.0, 0.5]}
    key = {"set": "Toy", "model": model, "stage": model, "seed": seed, "masked": masked, "split": "test"}
    return key | ends | {"ndcg@10": ndcg, "users": 9, "minutes": 4.0 * seed} | more


def test_one_seed_has_its_interval_and_several_their_range(tmp_path: Path) -> None:
    rows = [
        row("rl", seed, masked, 0.02 * seed + 0.1 * masked) for seed in (1, 2) for masked in (False, True)
    ]
    rows += [row("counting", 1, False, 0.03), row("rl", 1, False, 0.9, set="Other")]
    gain = {
        "a": 0.05,
        "b": 0.06,
        "difference": 0.01,
        "difference_ci": [0.004, 0.016],
        "relative": 0.2,
        "p": 0.002,
    }
    place = {"set": "Toy", "model": "rl over TIGER", "seed": 1, "masked": True, "split": "test"}
    rows.append(place | {"against": "toy:tiger", "stage": "rl"} | gain)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    lines = printed("science.py", "--set", "Toy", "--table", "--out", str(tmp_path / "rows.json"))
    assert lines[2:4] == [
        "| counting (no training) | .0600 [.0000 .5000] | .0300 [.0200 .0400] |  |  | 1 | 4 |",
        "| after RL | .0600 [.0400 .0800] | .0300 [.0200 .0400] "
        "| .2600 [.2400 .2800] | .1300 [.1200 .1400] | 2 | 6 |",
    ]
    assert lines[4] == "" and lines[7:] == [
        "| rl over TIGER | 1 | masked | .0500 | .0600 | +.0100 [+.0040 +.0160] | +20 % | 0.0020 |"
    ]


def test_ablations_refuse_a_variant_that_there_is_not() -> None:
    command = [sys.executable, "benchmarks/ablations.py", "--set", "Toy", "--run", "toy", "--stage", "rl"]
    done = subprocess.run(
        [*command, "--variants", "no such thing"], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "no such thing: there are as configured, no format" in done.stderr


def test_an_ablation_s_command_can_be_typed_and_its_runs_have_names_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    ablations = importlib.import_module("ablations")
    chosen = argparse.Namespace(
        set="Toy", run="toy", stage="sft", override=["a.b=[1, 2]"], variants=["the paper's loss", "no DPO"]
    )
    words = shlex.split(ablations._command_line(chosen))
    assert words[words.index("--override") + 1] == "a.b=[1, 2]"
    assert words[words.index("--variants") + 1 :] == chosen.variants
    assert ablations._variants(chosen) == ["no DPO", "the paper's loss"]
    names = {ablations._run_name(chosen, variant) for variant in ablations.VARIANTS["sft"]}
    chosen.override = ["a.b=[1, 3]"]
    names |= {ablations._run_name(chosen, variant) for variant in ablations.VARIANTS["sft"]}
    assert len(names) == 2 * len(ablations.VARIANTS["sft"])
