"""Two results compared: what may be, by the command line as a user types it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.output import signed
from streamrec_dist.comparison import compare, compare_each
from streamrec_dist.config_file import load_config
from streamrec_dist.data.split import split_rows
from streamrec_dist.data.strings import Strings
from streamrec_dist.errors import UsageError
from streamrec_dist.metrics import MEASURES
from streamrec_dist.ranks import TargetRanks, load_ranks, save_ranks
from streamrec_dist.rundir import RunDir, StageResult
from streamrec_dist.stages.evaluate import judge
from streamrec_dist.stages.run_store import RunStore
from tests.conftest import last_json, run_cli
from tests.test_ranks import ABOUT, by_time, judged


def some(ranks: TargetRanks, places: np.ndarray, **about) -> TargetRanks:
    """The targets at `places`, as if read from a file that has only these or has them in this order."""
    return replace(ranks.take(places), about={**ranks.about, **about})


def test_what_is_compared_is_the_same_target_whatever_the_order_of_a_file():
    first, second = judged(by_time(), seed=1), judged(by_time(), seed=2)
    expected = compare(first, second)
    shuffled = some(second, np.random.default_rng(0).permutation(len(second)))
    assert compare(first, shuffled)["measures"] == expected["measures"]
    assert set(expected["measures"]) == set(MEASURES)
    one = expected["measures"]["ndcg@10"]
    assert one["difference"] == pytest.approx(one["b"] - one["a"])
    assert one["wins"] + one["losses"] + one["ties"] == expected["users"] < expected["targets"]
    json.dumps(expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "valid"}, "demo:rl ranks the test split, other:rl the valid split"),
        ({"masked": True}, "other:rl was evaluated with the history masked, demo:rl with it allowed"),
        ({"data": "f" * 64}, "different data"),
    ],
)
def test_results_of_other_things_are_refused(change: dict, said: str):
    ranks = judged(by_time())
    other = some(ranks, np.arange(len(ranks)), run="other", **change)
    with pytest.raises(UsageError, match=said):
        compare(ranks, other)


def test_results_of_other_users_are_refused():
    ranks = judged(by_time())
    with pytest.raises(UsageError, match=r"different users .* such as 'u\d+' in one only"):
        compare(ranks, some(ranks, np.flatnonzero(ranks.user_numbers != 3)))
    with pytest.raises(UsageError, match=r"different users .* such as 'u\d+' in one only"):
        compare(some(ranks, np.arange(5)), ranks)
    renamed = replace(some(ranks, np.arange(len(ranks))), users=Strings.of([f"x{u}" for u in ranks.users]))
    with pytest.raises(UsageError, match="different users"):
        compare(ranks, renamed)
    several = np.flatnonzero(np.bincount(ranks.user_numbers)[ranks.user_numbers] > 1)
    with pytest.raises(UsageError, match="different users"):
        compare(ranks, some(ranks, np.delete(np.arange(len(ranks)), several[0])))


def test_a_beam_too_narrow_for_the_measures_is_noted():
    ds = by_time()
    rows = split_rows(ds, "test")
    decoding = {"thoughts": "none", "steps": 0, "samples": None, "beam": 10}
    narrow = judge(ds, rows, np.ones(len(rows), int), **{**ABOUT, "stage": "direct", "decoding": decoding})
    assert compare(judged(ds), judged(ds))["notes"] == []
    assert "demo:direct ranks 10 items only" in compare(judged(ds), narrow)["notes"][0]


def test_differences_are_printed_with_their_sign():
    assert [signed(value) for value in (0.0305, -0.0305, 0.0, 1.0)] == [
        "+.0305",
        "-.0305",
        "+.0000",
        "+1.0000",
    ]


def test_a_user_evaluates_and_compares(folder: Path):
    run = RunDir.create(folder / "runs", "demo", load_config(folder / "cluster.yaml"))
    missing = run_cli("compare", "demo:popularity", "demo:counting", "--split", "test", cwd=folder)
    assert missing.returncode == 2 and missing.stdout == ""
    assert "streamrec-dist evaluate demo --stage popularity --split test\n" in missing.stderr
    for arguments in (["popularity", "--by", "history", "--by", "popularity", "--by", "cold"], ["counting"]):
        done = run_cli("evaluate", "demo", "--stage", *arguments, "--split", "test", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "Recall@20" in done.stdout and "MRR@20" in done.stdout
        assert ("q4" in done.stdout and "1-4" in done.stdout and "cold" in done.stdout) == (
            len(arguments) > 1
        )
    results = folder / "runs" / "demo" / "results"
    names = ["counting-test.json", "counting-test.parquet", "popularity-test.json", "popularity-test.parquet"]
    assert sorted(path.name for path in results.iterdir()) == names

    compared = last_json(
        run_cli("compare", "demo:popularity", ":counting", "--split", "test", "--json", cwd=folder)
    )
    assert (compared["a"]["stage"], compared["b"]["stage"], compared["users"]) == (
        "popularity",
        "counting",
        80,
    )
    for side, stage in (("a", "popularity"), ("b", "counting")):
        written = json.loads((results / f"{stage}-test.json").read_text(encoding="utf-8"))
        for name in MEASURES:
            assert compared["measures"][name][side] == pytest.approx(written[name])
            low, high = written[f"{name}_ci"]
            assert low <= written[name] <= high
        assert written["by"]["history"]["5-9"]["targets"] == written["targets"] == 80
        assert written["by"]["history"]["1-4"]["ndcg@10"] is None
    shown = run_cli(
        "compare", "demo:counting", str(results / "counting-test.parquet"), "--split", "test", cwd=folder
    )
    assert shown.returncode == 0, shown.stderr
    assert "A = demo:counting, B = demo:counting; test split, 80 users, history allowed" in " ".join(
        shown.stdout.split()
    )
    ndcg = next(line.split() for line in shown.stdout.splitlines() if line.startswith("NDCG@10"))
    assert ndcg[3:] == ["+.0000", "[+.0000", "+.0000]", "+0.0", "%", "1.0000", "0", "0", "80"]

    # Some users only are another result; the run's own stays.
    part = ("evaluate", "demo", "--stage", "counting", "--split", "test", "--users", "20", "--mask-history")
    assert last_json(run_cli(*part, "--json", cwd=folder))["users"] == 20
    few = results / "counting-test-masked-20users.parquet"
    assert len(pq.read_table(few)) == load_ranks(few).n_users == 20
    assert run.stage_result("rl") is None
    masked = run_cli("compare", "demo:counting", str(few), "--split", "test", cwd=folder)
    assert masked.returncode == 2 and "evaluated with the history masked" in masked.stderr
    as_masked = run_cli("compare", "demo:counting", str(few), "--split", "test", "--mask-history", cwd=folder)
    assert as_masked.returncode == 2
    line = "streamrec-dist evaluate demo --stage counting --split test --mask-history\n"
    assert line in as_masked.stderr


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("demo", "demo"), "no trained model yet"),
        (("nobody:rl", "demo:rl"), "no run nobody in"),
        (
            ("demo:tokenize", "demo:rl"),
            "no stage or baseline 'tokenize'; expected one of counting, popularity",
        ),
        (("demo:rl", "demo:direct"), "evaluate demo --stage rl --split valid"),
        (("nowhere.parquet", "demo:rl"), "nowhere.parquet: no such file"),
    ],
)
def test_wrong_names_are_refused(names: tuple[str, str], said: str, folder: Path):
    run = RunDir.create(folder / "runs", "demo", load_config(folder / "cluster.yaml"))
    run.finish_stage(StageResult("tokenize", 1.0, 1))
    refused = run_cli("compare", *names, cwd=folder)
    assert refused.returncode == 2 and said in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr and refused.stdout == ""


def test_several_are_each_compared_with_the_first_and_p_is_adjusted():
    first, second, third = (judged(by_time(), seed=seed) for seed in (1, 2, 3))
    found = compare_each(first, [second, third])
    for one, other in zip(found, (second, third), strict=True):
        alone = compare(first, other)["measures"]
        for name, measure in one["measures"].items():
            assert {key: measure[key] for key in alone[name]} == alone[name]
    for name in MEASURES:
        pairs = [(one["measures"][name]["p"], one["measures"][name]["p_holm"]) for one in found]
        (low, low_adjusted), (high, high_adjusted) = sorted(pairs)
        assert low_adjusted == pytest.approx(min(1, 2 * low))
        assert high_adjusted == pytest.approx(max(min(1, 2 * low), high))
    (alone,) = compare_each(first, [second])
    assert all(one["p"] == one["p_holm"] for one in alone["measures"].values())


def test_runs_are_compared_with_what_they_were_told_and_what_they_took(folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    shop = RunStore(
        RunDir.create(folder / "runs", "base", load_config(folder / "cluster.yaml")).path
    ).dataset()
    rows = split_rows(shop, "test")
    for place, name in enumerate(("base", "no-kl", "wide")):
        overrides = ["stages.rl.kl=0", "model.d_ff=128"][:place]
        if place:
            RunDir.create(folder / "runs", name, load_config(folder / "cluster.yaml", overrides))
        run = RunDir.open(folder / "runs" / name)
        run.finish_stage(StageResult("rl", 60.0 + place, 4, {"ndcg@10": 0.125}))
        ranks = np.random.default_rng(place).integers(1, 30 - 10 * place, len(rows))
        save_ranks(
            run.ranks_path("rl-test"),
            judge(shop, rows, ranks, **{**ABOUT, "run": name}),
        )
    shown = CliRunner(env={"COLUMNS": "100"}).invoke(
        app, ["compare", "base", "no-kl", "wide", "--split", "test"]
    )
    assert shown.exit_code == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["C", "=", "wide:rl"] in lines and ["stages.rl.kl", "0.001", "0.0", "0.0"] in lines
    assert ["model.d_ff", "64", "64", "128"] in lines
    took = [" ".join(line) for line in lines if line[:1] == ["rl"]]
    assert took == ["rl 1 min 00 s, .1250 1 min 01 s, .1250 1 min 02 s, .1250"]
    (values,) = (line for line in lines if line[0:1] == ["MRR@20"] and len(line) == 4)
    assert values[1][-1] != "*" and values[3].endswith("*"), "the third ranks higher by far"
    assert "adjusted for the 2 comparisons" in shown.stderr
    told = CliRunner().invoke(app, ["compare", "base", "no-kl", "wide", "--split", "test", "--json"])
    body = json.loads(told.stdout)
    assert body["runs"] == ["base", "no-kl", "wide"] and body["config"]["model.d_ff"] == [64, 64, 128]
    assert [one["b"]["run"] for one in body["compared"]] == ["no-kl", "wide"]
    assert [one["seconds"] for one in body["stages"]["rl"]] == [60.0, 61.0, 62.0]
    pair = json.loads(
        CliRunner().invoke(app, ["compare", "base", "no-kl", "--split", "test", "--json"]).stdout
    )
    assert set(pair["config"]) == {"stages.rl.kl"} and pair["b"]["run"] == "no-kl"
    file = str(folder / "runs" / "wide" / "results" / "rl-test.parquet")
    assert json.loads(CliRunner().invoke(app, ["compare", "base", file, "--split", "test", "--json"]).stdout)[
        "config"
    ] == {"stages.rl.kl": [0.001, 0.0], "model.d_ff": [64, 128]}
    assert CliRunner().invoke(app, ["compare", "base"]).exit_code == 2


def test_results_of_some_users_are_compared_where_they_are_asked_for(folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    for name in ("one", "other"):
        run = RunDir.create(folder / "runs", name, load_config(folder / "cluster.yaml"))
        save_ranks(run.ranks_path("rl-test-7users"), judged(by_time()))
    pair = ["compare", "one:rl", "other:rl", "--split", "test"]
    told = CliRunner().invoke(app, [*pair, "--users", "7", "--json"])
    assert json.loads(told.stdout)["measures"]["ndcg@10"]["difference"] == 0
    refused = CliRunner().invoke(app, [*pair, "--users", "9"])
    assert refused.exit_code == 2 and "allowed of 9 users" in refused.stderr
    assert refused.stderr.rstrip().endswith("evaluate one --stage rl --split test --users 9")
