"""Whole runs by the command line on a real cluster: trained, evaluated, stopped, continued, killed."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from streamrec_dist.events import EventReader
from streamrec_dist.hardware import cpu_has_bf16
from streamrec_dist.items.id_file import ItemIds, load_ids
from streamrec_dist.rundir import STAGES, RunDir
from streamrec_dist.stages.run_store import RunStore
from tests.conftest import end_controller, last_json, run_cli
from tests.test_repeatable import REPEATABLE

pytestmark = pytest.mark.cluster

REPEATABLY = tuple(part for setting in REPEATABLE for part in ("--set", setting))
LONG = ("--set", "stages.rl.steps=100000", "--set", "stages.rl.eval_every=5")
MEASURES = {f"{name}@{k}{ci}" for name in ("recall", "ndcg") for k in (5, 10, 20) for ci in ("", "_ci")}
MEASURES |= {"mrr@20", "mrr@20_ci", "by"}


@pytest.fixture(scope="module")
def trained(cluster_root: Path) -> RunDir:
    """A run of all stages, made by `train --stage rl`, that another can repeat.

    Without that, whole runs are those of tests/test_two_lines.py and tests/test_faults.py.
    """
    done = run_cli(
        "train", "--stage", "rl", "--run", "whole", *REPEATABLY, "--json", cwd=cluster_root, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert "run whole lacks tokenize, retrieve, pretrain, sft: they run first" in done.stderr
    body = last_json(done)
    assert (body["run"], body["state"], set(body["stages"])) == ("whole", "done", set(STAGES))
    assert done.stdout.count("\n") == 1, "with --json the rest goes to stderr"
    return RunDir.open(cluster_root / "runs" / "whole")


def steps_of(run: RunDir, stage: str, part: int = 1) -> list[int]:
    """Steps of a stage in the given part of a run; a run that is continued has several parts."""
    parts = 0
    steps = []
    for event in EventReader(run.events_path).new():
        assert (event.kind, event.state) != ("run", "failed"), event.message
        parts += event.kind == "run" and event.state in ("started", "resumed")
        if parts == part and event.kind == "step" and event.stage == stage:
            steps.append(event.step)
    return steps


def wait_for_steps(run: RunDir, stage: str, part: int = 1, count: int = 3, seconds: float = 180) -> None:
    give_up = time.monotonic() + seconds
    while len(steps_of(run, stage, part)) < count:
        assert time.monotonic() < give_up, f"not {count} steps of {stage} within {seconds} s"
        time.sleep(0.3)


def test_a_run_leaves_its_config_events_and_results(trained: RunDir) -> None:
    assert trained.finished_stages() == list(STAGES)
    assert trained.config().stages.rl.steps == 4
    kinds = {event.kind for event in EventReader(trained.events_path).new()}
    assert {"run", "stage", "step", "eval", "round"} <= kinds
    suffixes = {path.suffix for path in trained.path.rglob("*") if path.is_file()}
    assert suffixes <= {".yaml", ".jsonl", ".json", ".safetensors", ".msgpack", ".parquet", ".arrow"}


def test_a_second_run_gives_the_same_bits(trained: RunDir) -> None:
    root = trained.path.parents[1]
    done = run_cli("train", "--stage", "all", "--run", "again", *REPEATABLY, cwd=root, timeout=400)
    assert done.returncode == 0, done.stderr
    again = RunDir.open(root / "runs" / "again")
    for stage in ("retrieve", "pretrain", "sft", "rl"):
        weights = again.load_weights(stage)
        assert [
            name for name, x in trained.load_weights(stage).items() if not (x == weights[name]).all()
        ] == []


def test_a_finished_run_is_not_trained_again(trained: RunDir) -> None:
    root = trained.path.parents[1]
    again = run_cli("train", "--stage", "all", "--resume", "--run", "whole", "--json", cwd=root)
    assert again.returncode == 0 and last_json(again)["state"] == "done"
    assert "has finished rl already" in again.stderr
    refused = run_cli("train", "--stage", "all", "--run", "whole", cwd=root)
    assert refused.returncode == 2 and "exists already" in refused.stderr
    refused = run_cli("train", "--stage", "all", "--resume", "--run", "whole", "--set", "seed=99", cwd=root)
    assert refused.returncode == 2 and "seed: 3 -> 99" in refused.stderr


@pytest.mark.parametrize("stage", ["counting", "retrieve", "direct", "pretrain", "sft", "rl"])
def test_every_stage_can_be_evaluated(trained: RunDir, stage: str) -> None:
    arguments = ("evaluate", "whole", "--stage", stage, "--split", "test", "--json")
    done = run_cli(*arguments, cwd=trained.path.parents[1])
    assert "core_worker" not in done.stderr  # Ray's own warnings
    body = last_json(done)
    assert {"run", "stage", "split", "masked", "users", "counting_ndcg@10", "invalid_beam_share"} <= set(body)
    assert set(body) >= MEASURES and set(body["counting"]) >= MEASURES
    assert (body["run"], body["stage"], body["split"], body["masked"]) == ("whole", stage, "test", False)
    low, high = body["ndcg@10_ci"]
    assert 0 <= low <= body["ndcg@10"] <= high <= 1
    assert body["counting_ndcg@10"] == body["counting"]["ndcg@10"]


def test_a_run_takes_its_first_stages_from_another(trained: RunDir) -> None:
    root = trained.path.parents[1]
    branch = ("train", "--stage", "rl", "--run", "branch", "--from", "whole")
    done = run_cli(*branch, "--set", "stages.rl.kl=0.5", "--json", cwd=root)
    assert done.returncode == 0, done.stderr
    run = RunDir.open(root / "runs" / "branch")
    assert run.finished_stages() == list(STAGES) and run.config().stages.rl.kl == 0.5
    assert {event.stage for event in EventReader(run.events_path).new() if event.kind == "step"} == {"rl"}
    known = {event.stage for event in run.all_events() if event.kind == "step"}
    assert known == {event.stage for event in trained.all_events() if event.kind == "step"} == set(STAGES)
    taken = trained.load_weights("sft")
    assert all((array == taken[name]).all() for name, array in run.load_weights("sft").items())

    def refused(*words: str) -> str:
        done = run_cli("train", "--run", "none", "--from", *words, cwd=root)
        assert done.returncode == 2 and not (root / "runs" / "none").exists(), done.stderr
        return done.stderr

    assert "stages.sft.dpo: 0.1 -> 0.0" in refused("whole", "--stage", "rl", "--set", "stages.sft.dpo=0")
    assert "seed: 3 -> 4" in refused("whole", "--stage", "retrieve", "--set", "seed=4")
    assert "model.dropout" in refused("whole", "--stage", "sft", "--set", "model.dropout=0.4")
    assert "one of them" in refused("whole", "--stage", "rl", "--resume")
    assert "nothing before it" in refused("whole", "--stage", "tokenize")
    assert "there are" in refused("nowhere", "--stage", "rl")
    (run.path / "stages" / "pretrain.json").unlink()
    assert "run branch has not finished pretrain" in refused("branch", "--stage", "rl")


def test_baselines_are_trained_with_what_they_need_and_join_a_run(trained: RunDir) -> None:
    root = trained.path.parents[1]
    branch = ("--run", "compared", "--from", "whole", "--json")
    done = run_cli("train", "--baseline", "sasrec-bce", *branch, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "streamrec-dist evaluate compared --stage sasrec-bce --split test" in done.stderr
    assert set(last_json(done)["stages"]) == {"tokenize", "sasrec-bce"}
    joined = run_cli("train", "--baseline", "tiger", "--run", "compared", "--json", cwd=root)
    assert joined.returncode == 0, joined.stderr
    assert set(last_json(joined)["stages"]) == {"tokenize", "sasrec-bce", "tiger"}
    again = run_cli("train", "--baseline", "tiger", "--run", "compared", cwd=root)
    assert again.returncode == 0 and "has finished tiger already" in again.stderr, again.stderr
    other = ("--run", "compared", "--set", "baselines.gru4rec.lr=0.1")
    refused = run_cli("train", "--baseline", "gru4rec", *other, cwd=root)
    assert refused.returncode == 2 and "baselines.gru4rec.lr: 0.001 -> 0.1" in refused.stderr

    judged = {}
    for name, decoding in (("sasrec-bce", None), ("tiger", {"thoughts": "none", "steps": 0, "beam": 5})):
        judged[name] = last_json(run_cli("evaluate", "compared", "--stage", name, "--json", cwd=root))
        assert (judged[name]["stage"], judged[name]["users"]) == (name, 80)
        assert judged[name]["decoding"] == (decoding and decoding | {"samples": None})
    outside = root.parent / f"{root.name}-outside"
    (outside / "runs").mkdir(parents=True)
    (outside / "runs" / "compared").symlink_to(root / "runs" / "compared")
    here = run_cli("evaluate", "--stage", "sasrec-bce", "--json", cwd=outside)
    assert "in this process" in here.stderr and last_json(here) == judged["sasrec-bce"]
    refused = run_cli("evaluate", "--stage", "sasrec-bce", "--beam", "5", cwd=outside)
    assert refused.returncode == 2 and "decodes nothing" in refused.stderr
    untrained = run_cli("evaluate", "--stage", "gru4rec", cwd=outside)
    assert untrained.returncode == 2 and "no weights of stage gru4rec" in untrained.stderr
    nothing = run_cli("evaluate", cwd=outside)
    assert nothing.returncode == 2 and "no trained model yet" in nothing.stderr


def test_evaluation_without_a_cluster_gives_the_same_numbers(trained: RunDir, tmp_path: Path) -> None:
    root = trained.path.parents[1]
    on_cluster = last_json(run_cli("evaluate", "whole", "--stage", "direct", "--json", cwd=root))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "whole").symlink_to(trained.path)
    here = run_cli("evaluate", "--stage", "direct", "--json", cwd=tmp_path)
    assert "in this process" in here.stderr
    assert last_json(here) == on_cluster


def test_one_evaluation_is_decoded_in_another_way_and_says_so(trained: RunDir) -> None:
    root = trained.path.parents[1]
    usual = last_json(run_cli("evaluate", "whole", "--json", cwd=root))
    assert usual["decoding"] == {"thoughts": "greedy", "steps": 2, "samples": None, "beam": 5}
    recorded = (trained.path / "results" / "rl-valid.json").read_text(encoding="utf-8")
    options = ("--thoughts", "sampled", "--samples", "3", "--beam", "7")
    shown = run_cli("evaluate", "whole", *options, cwd=root)
    assert shown.returncode == 0, shown.stderr
    assert "3 sampled thoughts, beam 7" in " ".join(shown.stdout.split())
    other = json.loads(
        (trained.path / "results" / "rl-valid-sampled3-beam7.json").read_text(encoding="utf-8")
    )
    assert other["decoding"] == {"thoughts": "sampled", "steps": 2, "samples": 3, "beam": 7}
    assert (trained.path / "results" / "rl-valid.json").read_text(encoding="utf-8") == recorded


def test_the_table_shows_the_counting_baseline_under_the_same_masking(trained: RunDir) -> None:
    root = trained.path.parents[1]
    shown = run_cli("evaluate", "whole", "--mask-history", cwd=root)
    assert shown.returncode == 0, shown.stderr
    assert "counting baseline" in shown.stdout and "masked" in shown.stdout and "rl" in shown.stdout
    assert "SYNTHETIC" not in shown.stdout


def test_recommendations_are_items_of_the_catalogue(trained: RunDir) -> None:
    root = trained.path.parents[1]
    body = last_json(
        run_cli("recommend", "whole", "--user", "u3", "-k", "4", "--explain", "--json", cwd=root)
    )
    assert [entry["rank"] for entry in body["items"]] == [1, 2, 3, 4]
    scores = [entry["score"] for entry in body["items"]]
    assert scores == sorted(scores, reverse=True)
    assert all(entry["item"].startswith("i") and "number" in entry["title"] for entry in body["items"])
    assert [entry["item"] for entry in body["history"]][:2] == ["i21", "i23"]
    assert len(body["thoughts"]) == 2 and "level" in body["thoughts"][0]["token"]
    joint = last_json(run_cli("recommend", "whole", "--user", "u3", "--thoughts", "beam", "--json", cwd=root))
    assert joint["decoding"]["thoughts"] == "beam" and len({row["item"] for row in joint["items"]}) == 10
    shown = run_cli("recommend", "whole", "--history", "i1,i2", cwd=root)
    assert shown.returncode == 0 and "recommended by rl" in shown.stdout, shown.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--user", "nobody"), "nobody"),
        (("--history", "i1,i999"), "i999"),
        (("--user", "u1", "--stage", "sft"), ""),
    ],
)
def test_unknown_users_and_items_are_named(trained: RunDir, arguments: tuple[str, ...], said: str) -> None:
    tried = run_cli("recommend", "whole", *arguments, cwd=trained.path.parents[1])
    assert tried.returncode == (2 if said else 0)
    assert said in tried.stderr


def test_a_detached_run_is_stopped_and_continued(trained: RunDir) -> None:
    root = trained.path.parents[1]
    branch = ("--run", "long", "--from", "whole", *LONG)
    begun = run_cli("train", "--stage", "rl", *branch, "--detach", "--json", cwd=root)
    assert begun.returncode == 0 and last_json(begun)["state"] == "detached", begun.stderr
    assert "streamrec-dist watch long" in begun.stderr and "streamrec-dist stop long" in begun.stderr
    refused = run_cli("train", "--stage", "rl", "--run", "long", "--resume", cwd=root)
    assert refused.returncode == 2 and "is going already" in refused.stderr
    run = RunDir.open(root / "runs" / "long")
    wait_for_steps(run, "rl")
    assert last_json(run_cli("status", "--json", cwd=root))["runs"] == ["long"]
    shown = run_cli("status", cwd=root)
    assert shown.returncode == 0 and "runs going" in shown.stdout, shown.stderr
    assert re.search(r"^long: stage rl, step \d+ of 100000, version \d+", shown.stdout, re.MULTILINE)
    roles = re.findall(r"^(\w+) +\d+ +(\d+) +\d+ +0", shown.stdout, re.MULTILINE)
    assert {"rollout", "reward", "evaluate"} < {role for role, _ in roles} and ("learners", "2") in roles
    assert re.search(r"^last event: (step|eval) rl \d+", shown.stderr, re.MULTILINE)
    stopped = run_cli("stop", "--json", cwd=root)
    assert stopped.returncode == 0 and last_json(stopped) == {"run": "long", "state": "stopped"}
    assert run_cli("stop", "long", cwd=root).returncode == 2
    again = run_cli("train", "--stage", "rl", "--resume", "--detach", cwd=root)
    assert again.returncode == 0, again.stderr
    wait_for_steps(run, "rl", part=2)
    assert steps_of(run, "rl", part=2)[0] == steps_of(run, "rl", part=1)[-1] + 1


def test_a_run_whose_controller_is_gone_is_reported_dead(trained: RunDir) -> None:
    """Ends the run that the test before has left going."""
    root = trained.path.parents[1]
    end_controller(root, "long")
    watched = run_cli("watch", "long", "--plain", cwd=root, timeout=120)
    assert watched.returncode == 1
    assert "no controller works on it any more" in watched.stderr
    assert "--resume --run long" in watched.stderr
    assert json.loads(run_cli("status", "--json", cwd=root).stdout)["runs"] == []


def test_ids_are_reported_and_a_grown_catalogue_keeps_them(trained: RunDir) -> None:
    root = trained.path.parents[1]
    body = last_json(run_cli("ids", "report", "whole", "--json", cwd=root))
    assert (body["items"], body["levels"], body["codes"], len(body["perplexity"])) == (60, 3, 16, 3)
    shown = run_cli("ids", "report", "whole", cwd=root)
    assert shown.returncode == 0 and "codes used" in shown.stdout, shown.stderr

    shutil.copytree(root / "shop", root / "grown")
    with (root / "grown" / "items.csv").open("a", encoding="utf-8") as items:
        items.write("new1,lamp number 4 for the kitchen\nnew2,a thing unlike the others\n")
    prepared = run_cli("data", "prepare", "grown", "--format", "csv", "--out", "more", cwd=root)
    assert prepared.returncode == 0, prepared.stderr
    extended = run_cli("ids", "extend", "whole", "--data", "more", "--out", "ids.parquet", "--json", cwd=root)
    assert last_json(extended) == {"out": "ids.parquet", "items": 62, "new": 2}
    options = ("--set", "data.path=more", "--set", "items.ids=ids.parquet")
    done = run_cli("train", "--stage", "tokenize", "--run", "grown", *options, "--json", cwd=root)
    assert done.returncode == 0, done.stderr
    assert last_json(done)["stages"]["tokenize"]["method"] == "given"
    old, new = RunStore(trained.path), RunStore(root / "runs" / "grown")
    before = _by_item(old.ids())
    after = _by_item(new.ids())
    assert {item: after[item] for item in before} == before
    assert set(after) - set(before) == {"new1", "new2"}
    refused = run_cli("ids", "extend", "grown", "--data", "more", cwd=root)
    assert refused.returncode == 2 and "no tokenizer" in refused.stderr
    assert "--ids" in refused.stderr

    # Grown once more, by an item whose text is that of an earlier one and that stands before it.
    table = (root / "grown" / "items.csv").read_text(encoding="utf-8").splitlines()
    more = [table[0], "new0,lamp number 4 for the kitchen", *reversed(table[1:])]
    (root / "grown" / "items.csv").write_text("\n".join(more) + "\n", encoding="utf-8")
    prepared = run_cli("data", "prepare", "grown", "--format", "csv", "--out", "most", cwd=root)
    assert prepared.returncode == 0, prepared.stderr
    choice = ("--data", "most", "--ids", "ids.parquet", "--out", "ids-2.parquet", "--json")
    extended = run_cli("ids", "extend", "whole", *choice, cwd=root)
    assert last_json(extended) == {"out": "ids-2.parquet", "items": 63, "new": 1}
    last = _by_item(load_ids(root / "ids-2.parquet"))
    assert {item: last[item] for item in after} == after
    foreign = run_cli("ids", "extend", "whole", "--data", "most", "--ids", "other.parquet", cwd=root)
    assert foreign.returncode == 2 and "other.parquet: no such file" in foreign.stderr


def _by_item(ids: ItemIds) -> dict[str, list[int]]:
    return dict(zip(ids.items, ids.codes.tolist(), strict=True))


def test_precision_is_settled_when_a_run_begins(cluster_root: Path) -> None:
    choice = ("--run", "settled", "--set", "model.precision=auto")
    done = run_cli("train", "--stage", "tokenize", *choice, cwd=cluster_root)
    assert done.returncode == 0, done.stderr
    settled = RunDir.open(cluster_root / "runs" / "settled").config().model.precision
    assert settled == ("bf16" if cpu_has_bf16() else "fp32")
    again = run_cli("train", "--stage", "tokenize", "--resume", *choice, cwd=cluster_root)
    assert again.returncode == 0 and "has finished tokenize already" in again.stderr, again.stderr
