"""The tables that the long benchmarks print from the rows they keep."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from streamrec_dist.config_file import dump_config, load_config, parse_config
from streamrec_dist.rundir import STAGES, StageResult
from tests.conftest import REPO


def printed(script: str, *arguments: str) -> list[str]:
    command = [sys.executable, f"benchmarks/{script}", *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["Scientific", "Beauty"])
def test_the_readme_has_the_rows_that_were_measured(name: str) -> None:
    shown = (REPO / "README.md").read_text()
    assert "\n".join(printed("science.py", "--set", name, "--table")) + "\n\n" in shown


def test_the_method_s_page_has_the_ablations_that_were_measured() -> None:
    shown = (REPO / "docs" / "method.md").read_text()
    rows = json.loads((REPO / "benchmarks" / "results" / "ablations.json").read_text())
    kinds = {(row["set"], row["run"], row["stage"], *row["override"]) for row in rows}
    assert len(kinds) > 1
    for name, run, stage, *override in kinds:
        words = ("--set", name, "--run", run, "--stage", stage, "--override", *override, "--table")
        assert "\n" + "\n".join(printed("ablations.py", *words)) + "\n\n" in shown


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
    place |= {"against": "toy:tiger", "stage": "rl", "best_step": 40}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "rows_gains.json").write_text(json.dumps([place | gain]))
    lines = printed("science.py", "--set", "Toy", "--table", "--out", str(tmp_path / "rows.json"))
    assert lines[2:4] == [
        "| counting (no training) | .0600 [.0000 .5000] | .0300 [.0200 .0400] |  |  | 1 | 4 |",
        "| after RL | .0600 [.0400 .0800] | .0300 [.0200 .0400] "
        "| .2600 [.2400 .2800] | .1300 [.1200 .1400] | 2 | 6 |",
    ]
    assert lines[4] == "" and lines[7:] == [
        "| rl over TIGER | 1 | masked | .0500 | .0600 | +.0100 [+.0040 +.0160] | +20 % | .0020 |"
    ]


def test_the_table_says_where_rl_kept_the_weights_of_sft(tmp_path: Path) -> None:
    kept = [row(model, 1, False, 0.03, stage=model, best_step=0) for model in ("sft", "rl")]
    (tmp_path / "rows.json").write_text(json.dumps(kept))
    lines = printed("science.py", "--set", "Toy", "--table", "--out", str(tmp_path / "rows.json"))
    assert lines[2].startswith("| after SFT |")
    assert lines[3].startswith("| after RL (SFT's weights) |")


@pytest.fixture
def science(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, with runs in a folder of the test's and a note of the commands instead of days of training."""
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    module, runs = importlib.import_module("science"), importlib.import_module("cluster_runs")
    said: list[tuple[str, ...]] = []

    def command(*words: str) -> None:
        said.append(words)
        if words[0] != "train":
            return
        options = dict(itertools.pairwise(words))
        run = tmp_path / options["--run"]
        (run / "stages").mkdir(parents=True, exist_ok=True)
        config = load_config(REPO / "configs" / "scientific.yaml", settings_of(words))
        if not (run / "config.yaml").exists():
            (run / "config.yaml").write_text(dump_config(config))
        last = options.get("--stage") or options["--baseline"]
        trained = STAGES[: STAGES.index(last) + 1] if last in STAGES else [last]
        for stage in trained:
            result = StageResult(stage, 60.0, 7, {"best_step": 0})
            (run / "stages" / f"{stage}.json").write_text(json.dumps(vars(result)))

    def result(*words: str) -> dict[str, Any]:
        said.append(words)
        if words[0] == "compare":
            gain = {"a": 0.1, "b": 0.2, "difference": 0.1, "difference_ci": [0, 1], "relative": 1.0, "p": 0.5}
            return {"measures": {"ndcg@10": gain}}
        stage, masked = words[words.index("--stage") + 1], "-masked" if "--mask-history" in words else ""
        ndcg = {"tiger": 0.1, "direct": 0.15}.get(stage, 0.3)
        found = {"ndcg@10": ndcg, "ndcg@10_ci": [0, 1], "recall@10": ndcg, "recall@10_ci": [0, 1], "users": 9}
        results = tmp_path / words[1] / "results"
        results.mkdir(exist_ok=True)
        (results / f"{stage}-test{masked}.json").write_text(json.dumps(found))
        (results / f"{stage}-test{masked}.parquet").touch()
        return found

    for name in (module, runs):
        monkeypatch.setattr(name, "RUNS", tmp_path)
        monkeypatch.setattr(name, "command", command)
        monkeypatch.setattr(name, "result", result)
    module.said = said  # type: ignore[attr-defined]
    return module


def settings_of(words: tuple[str, ...]) -> list[str]:
    return [value for word, value in itertools.pairwise(words) if word == "--set"]


def table_of(science: ModuleType, tmp_path: Path, *words: str) -> tuple[list[Any], list[Any], list[Any]]:
    """Commands, rows and gains of one call."""
    science.said.clear()
    arguments = science._arguments(["--set", "Scientific", "--out", str(tmp_path / "rows.json"), *words])
    science.fill(arguments)
    gains = tmp_path / "rows_gains.json"
    read = [json.loads(path.read_text()) if path.exists() else [] for path in (tmp_path / "rows.json", gains)]
    return [*science.said], read[0], read[1]


def test_a_table_trains_what_its_models_need_and_measures_each_once(
    science: ModuleType, tmp_path: Path
) -> None:
    said, rows, gains = table_of(science, tmp_path, "--models", "counting", "tiger")
    trained = [words for words in said if words[0] == "train"]
    assert [words[1:3] for words in trained] == [("--stage", "tokenize"), ("--baseline", "tiger")]
    assert [(row["model"], row["masked"], row["run"]) for row in rows] == [
        ("counting", False, "scientific-1"),
        ("counting", True, "scientific-1"),
        ("tiger", False, "scientific-1-baselines"),
        ("tiger", True, "scientific-1-baselines"),
    ]
    assert gains == []

    said, rows, gains = table_of(science, tmp_path, "--models", "tiger", "rl", "plain-direct")
    trained = [words for words in said if words[0] == "train"]
    assert [words[1:3] for words in trained] == [("--stage", "rl"), ("--stage", "pretrain")]
    assert set(science.plain_settings("Scientific")) < set(settings_of(trained[1]))
    assert "stages.pretrain.epochs=20" in science.plain_settings("Beauty")
    assert not set(science.plain_settings("Beauty")) & {"stages.pretrain.epochs=10"}
    assert not [words for words in said if words[0] == "evaluate" and "tiger" in words]
    assert len(rows) == 8
    # The direct decoder is the better one here, and RL's best step was its beginning.
    assert [(gain["against"], gain["masked"], gain["best_step"]) for gain in gains] == [
        ("scientific-1-plain:direct", False, 0),
        ("scientific-1-plain:direct", True, 0),
    ]
    assert table_of(science, tmp_path, "--models", "tiger", "rl", "plain-direct")[1:] == (rows, gains)
    assert [words for words in science.said if words[0] in ("train", "evaluate")] == []


def test_gains_need_both_tigers(science: ModuleType, tmp_path: Path) -> None:
    assert table_of(science, tmp_path, "--models", "tiger", "rl")[2] == []


def test_a_run_of_other_settings_is_refused_and_not_measured(science: ModuleType, tmp_path: Path) -> None:
    table_of(science, tmp_path, "--models", "sft")
    path = tmp_path / "scientific-1" / "config.yaml"
    text = path.read_text()
    assert "steps: 100" in text and "own_thoughts: 0.8" in text
    # What no finished stage depends on may differ.
    path.write_text(text.replace("steps: 100", "steps: 3", 1))
    table_of(science, tmp_path, "--models", "sft")
    path.write_text(text.replace("own_thoughts: 0.8", "own_thoughts: 0.5", 1))
    with pytest.raises(SystemExit, match=r"stages.sft.own_thoughts: 0.5 -> 0.8"):
        table_of(science, tmp_path, "--models", "sft")


def test_rows_say_the_command_that_makes_them_again(science: ModuleType, tmp_path: Path) -> None:
    words = ("--models", "plain-direct", "--seeds", "2", "--plain", "model.dropout=0.2")
    _, rows, _ = table_of(science, tmp_path, *words)
    assert {row["command"] for row in rows} == {
        "python benchmarks/science.py --set Scientific --seeds 2 --plain model.dropout=0.2"
    }


def test_ablations_refuse_a_variant_that_there_is_not() -> None:
    command = [sys.executable, "benchmarks/ablations.py", "--set", "Toy", "--run", "toy", "--stage", "rl"]
    done = subprocess.run(
        [*command, "--variants", "no such thing"], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "no such thing: there are as configured, no format" in done.stderr


def test_an_ablation_s_command_can_be_typed_and_its_runs_have_names_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    ablations = importlib.import_module("ablations")
    monkeypatch.setattr(importlib.import_module("cluster_runs"), "RUNS", tmp_path)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.yaml").write_text("seed: 1")
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
    (tmp_path / "toy" / "config.yaml").write_text("seed: 2")
    names |= {ablations._run_name(chosen, variant) for variant in ablations.VARIANTS["sft"]}
    assert len(names) == 3 * len(ablations.VARIANTS["sft"])


def test_ablations_leave_out_what_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    ablations = importlib.import_module("ablations")

    def why(setting: str, *usual: str) -> str:
        configs = (parse_config("", "test", words) for words in (usual, (*usual, setting)))
        return ablations._changes_nothing(*configs)

    assert "configured" in why("stages.sft.dpo=1", "stages.sft.dpo=1")
    assert "trie" in why("stages.rl.sampling=trie", "model.softmax=trie")
    assert why("stages.rl.sampling=trie", "model.softmax=codes") == ""
    assert "evidence" in why("stages.sft.calibration=0", "model.evidence=0")
    assert why("stages.sft.calibration=0") == why("stages.sft.dpo=0") == ""
