"""Whole runs by the command line on a real cluster: trained, evaluated, stopped, continued, killed.

Most of the time of a run goes by while its processes start. So tests share runs, these have no more processes than
what is looked at needs, and what needs no cluster is typed into this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.terminal import Terminal, has_tmux
from cli.app import app
from cli.processes import cluster_processes
from cli.record import read_record
from streamrec_dist.events import EventReader
from streamrec_dist.hardware import cpu_has_bf16
from streamrec_dist.items.id_file import ItemIds, load_ids
from streamrec_dist.rundir import STAGES, RunDir, newest_run
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.summary_file import summarised
from tests.conftest import REPO, TINY, end_controller, last_json, run_cli, write_shop
from tests.event_docs import missing, unknown
from tests.hostile import files_of, kinds
from tests.test_hostile_files import READERS
from tests.traces import checked, spans

pytestmark = pytest.mark.cluster

LINES = ("streamrec-dist up cluster.yaml", "streamrec-dist train --stage rl")
NOT_CLONED = shutil.ignore_patterns(
    ".git", ".venv", "runs", ".streamrec", "__pycache__", ".*_cache", "*.egg-info"
)
#: The default file trains for minutes; this one a tiny model on a few users, and so that another run can repeat it.
SETTINGS = TINY + "deterministic: true\nactors: {evaluate: {replicas: 1}}\n"
ALONE = ("learners.world_size=1", "actors.rollout.replicas=1")
FEW_PROCESSES = tuple(word for setting in ALONE for word in ("--set", setting))
LONG = ("--set", "stages.rl.steps=100000", "--set", "stages.rl.eval_every=5")
MEASURES = {f"{name}@{k}{ci}" for name in ("recall", "ndcg") for k in (5, 10, 20) for ci in ("", "_ci")}
MEASURES |= {"mrr@20", "mrr@20_ci", "by"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDir]:
    """The run of the two lines that a user types in a fresh clone, whose cluster stays up."""
    clone = tmp_path_factory.mktemp("fresh") / "streamrec-dist"
    shutil.copytree(REPO, clone, ignore=NOT_CLONED)
    (clone / "cluster.yaml").write_text(SETTINGS, encoding="utf-8")
    write_shop(clone / "shop")
    environment = {
        **os.environ,
        # The program of this environment, with the code of the clone.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
        "RAY_worker_niceness": "0",  # as in run_cli
    }

    def typed(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            line, shell=True, cwd=clone, env=environment, capture_output=True, text=True, timeout=400
        )

    try:
        for line in LINES:
            done = typed(line)
            assert done.returncode == 0, f"$ {line}\n{done.stderr}"
        assert "lacks tokenize, retrieve, pretrain, sft: they run first" in done.stderr
        yield newest_run(clone / "runs")
        record = read_record(clone)
    finally:
        down = typed("streamrec-dist down")
    assert record is not None and down.returncode == 0 and cluster_processes(record.cluster_id) == []


@pytest.fixture(scope="module")
def outside(trained: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without a cluster whose runs are those of the clone."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "runs").symlink_to(trained.path.parent)
    return folder


def here(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Type a command that needs no cluster, in this process, which has torch already."""
    with contextlib.chdir(cwd):
        done = CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1"}).invoke(app, list(arguments))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def typed_into(root: Path, *arguments: str, lines: int) -> str:
    """Type a command whose output is read for so many lines and no longer; what it says on stderr until it ends."""
    child = subprocess.Popen(
        [sys.executable, "-m", "cli.app", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPO), "RAY_worker_niceness": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stderr is not None
    for _ in range(lines):
        assert child.stdout.readline()
    child.stdout.close()
    with child.stderr:
        said = child.stderr.read()
    child.wait(timeout=60)
    return said


def steps_of(run: RunDir, stage: str, part: int = 1) -> list[int]:
    """Steps of a stage in the given part of a run; a run that is continued has several parts."""
    parts = 0
    steps = []
    for event in EventReader(run.events_path).new():
        assert (event.kind, event.state) != ("run", "failed"), event.message
        parts += (event.kind, event.state) == ("run", "started")
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
    found = {event.kind for event in EventReader(trained.events_path).new()}
    assert {"run", "stage", "step", "eval", "round"} <= found


def test_a_finished_run_is_not_trained_again(trained: RunDir) -> None:
    root, name = trained.path.parents[1], trained.name
    again = run_cli("train", "--resume", "--run", name, "--json", cwd=root)
    assert again.returncode == 0 and last_json(again)["state"] == "done"
    assert "has finished rl already" in again.stderr
    refused = here("train", "--stage", "all", "--run", name, cwd=root)
    assert refused.returncode == 2 and "exists already" in refused.stderr
    refused = here("train", "--stage", "all", "--resume", "--run", name, "--set", "seed=99", cwd=root)
    assert refused.returncode == 2 and "seed: 3 -> 99" in refused.stderr


def test_the_plan_of_a_cluster_that_is_up_is_about_its_nodes(trained: RunDir) -> None:
    done = run_cli("plan", "--json", cwd=trained.path.parents[1])
    assert done.returncode == 0, done.stderr
    body = last_json(done)
    (node,) = body["nodes"]
    assert (body["up"], node["node"], node["cpus"], body["problems"]) == (True, "head", 2, [])
    assert node["memory_gib"] > 0
    fit = {role["role"]: role["fit"] for role in body["stages"][-1]["roles"] if role["nodes"] == ["head"]}
    assert fit == {"rollout": 2, "reward": 1, "evaluate": 1, "learners": 2}


@pytest.mark.parametrize("stage", ["counting", "retrieve", "direct", "pretrain", "sft", "rl"])
def test_every_stage_can_be_evaluated(trained: RunDir, outside: Path, stage: str) -> None:
    done = here("evaluate", trained.name, "--stage", stage, "--split", "test", "--json", cwd=outside)
    assert "in this process" in done.stderr
    body = last_json(done)
    assert {"run", "stage", "split", "masked", "users", "counting_ndcg@10", "invalid_beam_share"} <= set(body)
    assert set(body) >= MEASURES and set(body["counting"]) >= MEASURES
    said = (body["run"], body["stage"], body["split"], body["masked"])
    assert said == (trained.name, stage, "test", False)
    low, high = body["ndcg@10_ci"]
    assert 0 <= low <= body["ndcg@10"] <= high <= 1
    assert body["counting_ndcg@10"] == body["counting"]["ndcg@10"]


@pytest.mark.parametrize("stage", ["retrieve", "direct", "rl"])
def test_evaluation_on_a_cluster_gives_the_same_numbers(trained: RunDir, outside: Path, stage: str) -> None:
    command = ("evaluate", trained.name, "--stage", stage, "--json")
    done = run_cli(*command, cwd=trained.path.parents[1])
    assert "on the cluster" in done.stderr and "core_worker" not in done.stderr  # Ray's own warnings
    assert last_json(done) == last_json(here(*command, cwd=outside))


def test_a_second_run_gives_the_same_bits_and_a_third_takes_its_first_stages_from_it(trained: RunDir) -> None:
    root = trained.path.parents[1]
    first = ("train", "--stage", "sft", "--run", "again", "--trace", "--json")
    done = run_cli(*first, cwd=root, timeout=400)
    assert done.returncode == 0, done.stderr
    body = last_json(done)
    assert (body["run"], body["state"], set(body["stages"])) == ("again", "done", set(STAGES) - {"rl"})
    assert done.stdout.count("\n") == 1, "with --json the rest goes to stderr"
    again = RunDir.open(root / "runs" / "again")
    command = ("train", "--stage", "rl", "--run", "branch", "--from", "again", "--trace", "--tensorboard")
    done = run_cli(*command, "--set", "baselines.tiger.epochs=1", "--json", cwd=root)
    assert done.returncode == 0, done.stderr
    run = RunDir.open(root / "runs" / "branch")
    assert run.finished_stages() == list(STAGES) and run.config().baselines.tiger.epochs == 1
    for stage in ("retrieve", "pretrain", "sft", "rl"):
        weights = (run if stage == "rl" else again).load_weights(stage)
        known = trained.load_weights(stage)
        assert [name for name, x in known.items() if not (x == weights[name]).all()] == []
    assert {event.stage for event in EventReader(run.events_path).new() if event.kind == "step"} == {"rl"}
    stages = {event.stage for event in run.all_events() if event.kind == "step"}
    assert stages == {event.stage for event in trained.all_events() if event.kind == "step"} == set(STAGES)
    taken = again.load_weights("sft")
    assert all((array == taken[name]).all() for name, array in run.load_weights("sft").items())

    def refused(*words: str) -> str:
        done = here("train", "--run", "none", "--from", *words, cwd=root)
        assert done.returncode == 2 and not (root / "runs" / "none").exists(), done.stderr
        return done.stderr

    assert "stages.sft.dpo: 0.1 -> 0.0" in refused("again", "--stage", "rl", "--set", "stages.sft.dpo=0")
    assert "seed: 3 -> 4" in refused("again", "--stage", "retrieve", "--set", "seed=4")
    assert "model.dropout" in refused("again", "--stage", "sft", "--set", "model.dropout=0.4")
    assert "one of them" in refused("again", "--stage", "rl", "--resume")
    assert "nothing before it" in refused("again", "--stage", "tokenize")
    assert "there are" in refused("nowhere", "--stage", "rl")
    (run.path / "stages" / "pretrain.json").unlink()
    assert "run branch has not finished pretrain" in refused("branch", "--stage", "rl")


def test_a_traced_run_tells_when_every_role_did_what(trained: RunDir) -> None:
    """Of the run that the test before has made: its bits are those of one that is not traced."""
    run = RunDir.open(trained.path.parent / "branch")
    events = checked(run.trace_path)
    parts = ("generate", "score", "wait", "prepare", "forward", "backward", "optimise", "publish", "adopt")
    found = {name: spans(events, name) for name in parts}
    assert all(found.values()) and not trained.trace_path.exists()
    threads = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert {name.split()[0] for name in threads.values()} == {"controller", "rollout", "reward", "learner"}
    for name, role in (("generate", "rollout"), ("score", "reward"), ("publish", "learner")):
        assert {threads[span["tid"]].split()[0] for span in found[name]} == {role}
    ends = {name: sorted(span["ts"] + span["dur"] for span in found[name]) for name in parts}
    # As many units are scored as are generated, each after it was; the first weights are not a rank's to publish.
    assert len(found["score"]) == len(found["generate"]) >= 4
    for scored, generated in zip(found["score"], ends["generate"], strict=True):
        assert scored["ts"] >= generated
    later = [span["ts"] for span in found["adopt"] if span["ts"] > ends["publish"][0]]
    assert len(found["publish"]) == 4 and later
    assert all(sum(end <= at for end in ends["publish"]) for at in later)
    assert {event["name"] for event in events if event["ph"] == "b"} == {"evaluate"}
    earlier = checked(trained.path.parent / "again" / "trace.json")
    assert all(spans(earlier, name) for name in ("wait", "forward", "backward", "optimise"))
    assert {event["name"] for event in earlier if event["ph"] == "b"} == {"train", "evaluate"}
    steps = [event for event in EventReader(run.events_path).new() if event.kind == "step"]
    told = sum(event.metrics.get("time/generate", 0.0) for event in steps)
    assert told == pytest.approx(sum(span["dur"] for span in found["generate"]) / 1e6, rel=0.2)


def test_every_metric_of_a_whole_run_is_documented(trained: RunDir) -> None:
    events = [*trained.all_events(), *RunDir.open(trained.path.parent / "branch").all_events()]
    assert {event.kind for event in events} >= {"run", "stage", "step", "round", "eval", "workers"}
    assert unknown(events) == set() and missing(events) == set()
    named = {name for event in events if event.stage == "rl" for name in event.metrics}
    parts = (
        "adopt",
        "generate",
        "score",
        "prepare",
        "forward",
        "backward",
        "optimise",
        "publish",
        "evaluate",
    )
    waits = ("wait_rollout", "wait_reward", "wait_learner")
    assert named >= {"adopted_s", "staleness_counts", *(f"time/{part}" for part in (*parts, *waits))}
    assert (trained.path.parent / "branch" / "tensorboard" / "rl").is_dir(), "exported beside the view"


def test_hostile_files_are_all_that_a_run_has(trained: RunDir) -> None:
    """After runs that were made, judged and taken from others."""
    for run in (trained, RunDir.open(trained.path.parent / "branch")):
        files = [name for name in files_of(run.path) if not name.startswith("tensorboard/")]
        assert kinds(files) <= kinds(READERS)


def test_baselines_are_trained_with_what_they_need_and_join_a_run(trained: RunDir, outside: Path) -> None:
    root = trained.path.parents[1]
    branch = ("--run", "compared", "--from", trained.name, *FEW_PROCESSES, "--json")
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
    refused = here("train", "--baseline", "gru4rec", *other, cwd=root)
    assert refused.returncode == 2 and "baselines.gru4rec.lr: 0.001 -> 0.1" in refused.stderr

    for name, decoding in (("sasrec-bce", None), ("tiger", {"thoughts": "none", "steps": 0, "beam": 5})):
        judged = last_json(here("evaluate", "compared", "--stage", name, "--json", cwd=outside))
        assert (judged["stage"], judged["users"]) == (name, 80)
        assert judged["decoding"] == (decoding and decoding | {"samples": None})
    # On a cluster the models over items are judged as the retriever is; TIGER has a configuration of its own.
    assert last_json(run_cli("evaluate", "compared", "--stage", "tiger", "--json", cwd=root)) == judged
    refused = here("evaluate", "compared", "--stage", "sasrec-bce", "--beam", "5", cwd=outside)
    assert refused.returncode == 2 and "decodes nothing" in refused.stderr
    untrained = here("evaluate", "compared", "--stage", "gru4rec", cwd=outside)
    assert untrained.returncode == 2 and "no weights of stage gru4rec" in untrained.stderr
    nothing = here("evaluate", "compared", cwd=outside)
    assert nothing.returncode == 2 and "no trained model yet" in nothing.stderr


def test_one_evaluation_is_decoded_in_another_way_and_says_so(trained: RunDir, outside: Path) -> None:
    name, results = trained.name, trained.path / "results"
    usual = last_json(here("evaluate", name, "--json", cwd=outside))
    assert usual["decoding"] == {"thoughts": "greedy", "steps": 2, "samples": None, "beam": 5}
    recorded = (results / "rl-valid.json").read_text(encoding="utf-8")
    options = ("--thoughts", "sampled", "--samples", "3", "--beam", "7")
    shown = here("evaluate", name, *options, cwd=outside)
    assert shown.returncode == 0, shown.stderr
    assert "3 sampled thoughts, beam 7" in " ".join(shown.stdout.split())
    other = json.loads((results / "rl-valid-sampled3-beam7.json").read_text(encoding="utf-8"))
    assert other["decoding"] == {"thoughts": "sampled", "steps": 2, "samples": 3, "beam": 7}
    assert (results / "rl-valid.json").read_text(encoding="utf-8") == recorded


def test_the_table_shows_the_counting_baseline_under_the_same_masking(trained: RunDir, outside: Path) -> None:
    shown = here("evaluate", trained.name, "--mask-history", cwd=outside)
    assert shown.returncode == 0, shown.stderr
    assert "counting baseline" in shown.stdout and "masked" in shown.stdout and "rl" in shown.stdout
    assert "SYNTHETIC" not in shown.stdout


def test_recommendations_are_items_of_the_catalogue(trained: RunDir, outside: Path) -> None:
    command = ("recommend", trained.name)
    # In a process of its own, as it is typed; the others in this one.
    alone = run_cli(*command, "--user", "u3", "-k", "4", "--explain", "--json", cwd=trained.path.parents[1])
    body = last_json(alone)
    assert [entry["rank"] for entry in body["items"]] == [1, 2, 3, 4]
    scores = [entry["score"] for entry in body["items"]]
    assert scores == sorted(scores, reverse=True)
    assert all(entry["item"].startswith("i") and "number" in entry["title"] for entry in body["items"])
    assert [entry["item"] for entry in body["history"]][:2] == ["i21", "i23"]
    assert len(body["thoughts"]) == 2 and "level" in body["thoughts"][0]["token"]
    told = here(*command, "--user", "u3", "-k", "4", "--explain", cwd=outside).stdout
    same = body["thoughts"][0] == body["thoughts"][1]
    assert re.findall(r"thoughts? (\d(?: to \d)?): level", told) == (["1 to 2"] if same else ["1", "2"])
    joint = last_json(here(*command, "--user", "u3", "--thoughts", "beam", "--json", cwd=outside))
    assert joint["decoding"]["thoughts"] == "beam" and len({row["item"] for row in joint["items"]}) == 10
    shown = here(*command, "--history", "i1,i2", cwd=outside)
    assert shown.returncode == 0 and "recommended by rl" in shown.stdout, shown.stderr


def test_the_report_of_a_run_says_what_it_was_made_with_and_what_its_processes_did(
    trained: RunDir, tmp_path: Path
) -> None:
    shutil.copytree(trained.path, tmp_path / "runs" / "copy")
    done = last_json(here("report", "copy", "--examples", "1", "--json", cwd=tmp_path))
    pictures = {Path(path).stem for path in done["pictures"]}
    assert done["left_out"] == [] and {"reward-ledger", "staleness", "utilisation", "rounds"} <= pictures
    shown = Path(done["report"]).read_text(encoding="utf-8")
    for words in (
        "learner ranks",
        "generate",
        "backward",
        "waiting",
        "Ten best",
        "near to",
        torch.__version__,
    ):
        assert words in shown, words
    assert shown.count("<article>") == 1
    drawn = here("plot", trained.name, "reward/total", "--json", cwd=trained.path.parents[1])
    (curve,) = last_json(drawn)["curves"]
    assert (curve["stage"], curve["steps"]) == ("rl", [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--user", "nobody"), "nobody"),
        (("--history", "i1,i999"), "i999"),
        (("--user", "u1", "--stage", "sft"), ""),
    ],
)
def test_unknown_users_and_items_are_named(
    trained: RunDir, outside: Path, arguments: tuple[str, ...], said: str
) -> None:
    tried = here("recommend", trained.name, *arguments, cwd=outside)
    assert tried.returncode == (2 if said else 0)
    assert said in tried.stderr


def look_after(run: RunDir, root: Path) -> None:
    """Pause a run of stage rl, have it write a checkpoint, and let it go on."""
    paused = run_cli("pause", run.name, cwd=root)
    assert paused.returncode == 0 and "streamrec-dist resume long" in paused.stderr, paused.stderr
    assert run_cli("pause", run.name, cwd=root).returncode == 2
    assert "stage rl, paused, step" in run_cli("status", cwd=root).stdout
    made, kept = len(steps_of(run, "rl")), set(run.checkpoint_steps("rl"))
    asked = run_cli("checkpoint", run.name, cwd=root)
    assert asked.returncode == 0 and "a checkpoint is written" in asked.stderr, asked.stderr
    give_up = time.monotonic() + 60
    while set(run.checkpoint_steps("rl")) == kept and time.monotonic() < give_up:
        time.sleep(0.1)
    assert run.checkpoint_steps("rl")[-1] == steps_of(run, "rl")[-1]
    assert len(steps_of(run, "rl")) == made, "it rests"
    assert run_cli("resume", run.name, cwd=root).returncode == 0
    while len(steps_of(run, "rl")) < made + 3 and time.monotonic() < give_up:
        time.sleep(0.1)
    summary, _ = summarised(run)
    assert summary.stages["rl"].step > made and not summary.paused
    processes = {(process["role"], process["number"]): process for process in summary.processes}
    assert {("rollout", 0), ("reward", 0), ("learners", 0)} <= set(processes)
    assert all(process["memory_mib"] > 100 for process in processes.values())
    assert processes["rollout", 0]["version"] > 0


def test_a_detached_run_is_stopped_and_continued(trained: RunDir, tmp_path: Path) -> None:
    root = trained.path.parents[1]
    branch = ("--run", "long", "--from", trained.name, *LONG, *FEW_PROCESSES)
    begun = run_cli("train", "--stage", "rl", *branch, "--detach", "--json", cwd=root)
    assert begun.returncode == 0 and last_json(begun)["state"] == "detached", begun.stderr
    assert "streamrec-dist watch long" in begun.stderr and "streamrec-dist stop long" in begun.stderr
    refused = run_cli("train", "--resume", cwd=root)
    assert refused.returncode == 2 and "is going already" in refused.stderr
    run = RunDir.open(root / "runs" / "long")
    # From another folder that uses the same cluster and has a run of that name, this one is not meant.
    shutil.copytree(root / ".streamrec", tmp_path / ".streamrec")
    RunDir.create(tmp_path / "runs", "long", run.config())
    elsewhere = run_cli("stop", "long", cwd=tmp_path)
    assert elsewhere.returncode == 2 and "run long is not running" in elsewhere.stderr
    wait_for_steps(run, "rl")
    assert last_json(run_cli("status", "--json", cwd=root))["runs"] == ["long"]
    shown = run_cli("status", cwd=root)
    assert shown.returncode == 0 and "runs going" in shown.stdout, shown.stderr
    assert re.search(r"^long: stage rl, step \d+ of 100000, version \d+", shown.stdout, re.MULTILINE)
    roles = re.findall(r"^(\w+) +\d+ +(\d+) +\d+ +0", shown.stdout, re.MULTILINE)
    assert {"rollout", "reward", "evaluate"} < {role for role, _ in roles} and ("learners", "1") in roles
    assert re.search(r"^last event: (step|eval|workers) rl( \d+)?", shown.stderr, re.MULTILINE)
    look_after(run, root)
    stopped = run_cli("stop", "--json", cwd=root)
    assert stopped.returncode == 0 and last_json(stopped) == {"run": "long", "state": "stopped"}
    assert run_cli("stop", "long", cwd=root).returncode == 2
    # Whoever reads what train shows may leave: the run goes on.
    shown = typed_into(root, "train", "--resume", lines=1)
    assert "run long: rl" in shown and "Traceback" not in shown and "Broken pipe" not in shown, shown
    wait_for_steps(run, "rl", part=2, count=len(steps_of(run, "rl", part=2)) + 3)
    assert steps_of(run, "rl", part=2)[0] == steps_of(run, "rl", part=1)[-1] + 1


@pytest.mark.skipif(not has_tmux(), reason="a real terminal needs tmux (apt-get install tmux)")
def test_keys_of_the_live_view_act_on_the_run_that_goes_on(trained: RunDir) -> None:
    root = trained.path.parents[1]
    watching = [sys.executable, "-m", "cli.app", "watch", "long"]
    variables = {"PYTHONPATH": str(REPO), "TERM": "screen-256color"}
    with Terminal(watching, 80, 24, cwd=root, variables=variables) as terminal:

        def shown(word: str) -> str:
            text = terminal.wait_for(lambda text: word in text, seconds=60)
            assert word in text, text
            return text

        shown("● rollout 0")
        terminal.press("l", "Down", "Enter")
        process = re.search(r"log of learners 0, process (\d+) on 127", shown("log of learners 0"))
        record = read_record(root)
        assert process and record
        (log,) = Path(record.temp_dir).glob(f"ray/session_latest/logs/worker-*-{process[1]}.out")
        with log.open("a", encoding="utf-8") as file:
            file.write("said by the learner\n")
        shown("said by the learner")
        terminal.press("Escape", "p")
        shown("it finishes what is at work, then rests")
        assert run_cli("pause", "long", cwd=root).returncode == 2, "it is paused already"
        shown("paused, up")
        terminal.press("c")
        shown("a checkpoint is written after the step at work")
        terminal.press("p")
        shown("going, up")
        terminal.press("q")
        assert terminal.exit_code() == 0


def test_a_run_whose_controller_is_gone_is_reported_dead(trained: RunDir) -> None:
    """Ends the run that the tests before have left going."""
    root = trained.path.parents[1]
    end_controller(root, "long")
    # A view asks for the controller of a run that has been silent for a while, such as a minute.
    run = RunDir.open(root / "runs" / "long")
    events = [replace(event, t=event.t - 60) for event in EventReader(run.events_path).new()]
    run.events_path.write_text("".join(f"{event.to_json()}\n" for event in events), encoding="utf-8")
    watched = run_cli("watch", "long", "--plain", cwd=root, timeout=120)
    assert watched.returncode == 1
    assert "no controller works on it any more" in watched.stderr
    assert "--resume --run long" in watched.stderr
    assert json.loads(run_cli("status", "--json", cwd=root).stdout)["runs"] == []


def test_ids_are_reported_and_a_grown_catalogue_keeps_them(trained: RunDir) -> None:
    root = trained.path.parents[1]
    body = last_json(here("ids", "report", trained.name, "--json", cwd=root))
    assert (body["items"], body["levels"], body["codes"], len(body["perplexity"])) == (60, 3, 16, 3)
    shown = here("ids", "report", trained.name, cwd=root)
    assert shown.returncode == 0 and "codes used" in shown.stdout, shown.stderr

    shutil.copytree(root / "shop", root / "grown")
    with (root / "grown" / "items.csv").open("a", encoding="utf-8") as items:
        items.write("new1,lamp number 4 for the kitchen\nnew2,a thing unlike the others\n")
    prepared = here("data", "prepare", "grown", "--format", "csv", "--out", "more", cwd=root)
    assert prepared.returncode == 0, prepared.stderr
    extended = here(
        "ids", "extend", trained.name, "--data", "more", "--out", "ids.parquet", "--json", cwd=root
    )
    assert last_json(extended) == {"out": "ids.parquet", "items": 62, "new": 2}
    settings = ("data.path=more", "items.ids=ids.parquet", "model.precision=auto")
    options = (*(word for one in settings for word in ("--set", one)), *FEW_PROCESSES)
    done = run_cli("train", "--stage", "tokenize", "--run", "grown", *options, "--json", cwd=root)
    assert done.returncode == 0, done.stderr
    # What is left to the machine is settled when a run begins.
    settled = RunDir.open(root / "runs" / "grown").config().model.precision
    assert settled == ("bf16" if cpu_has_bf16() else "fp32")
    again = here("train", "--resume", *options, "--run", "grown", cwd=root)
    assert again.returncode == 0 and "has finished tokenize already" in again.stderr, again.stderr
    assert last_json(done)["stages"]["tokenize"]["method"] == "given"
    old, new = RunStore(trained.path), RunStore(root / "runs" / "grown")
    before = _by_item(old.ids())
    after = _by_item(new.ids())
    assert {item: after[item] for item in before} == before
    assert set(after) - set(before) == {"new1", "new2"}
    refused = here("ids", "extend", "grown", "--data", "more", cwd=root)
    assert refused.returncode == 2 and "no tokenizer" in refused.stderr
    assert "--ids" in refused.stderr

    # Grown once more, by an item whose text is that of an earlier one and that stands before it.
    table = (root / "grown" / "items.csv").read_text(encoding="utf-8").splitlines()
    more = [table[0], "new0,lamp number 4 for the kitchen", *reversed(table[1:])]
    (root / "grown" / "items.csv").write_text("\n".join(more) + "\n", encoding="utf-8")
    prepared = here("data", "prepare", "grown", "--format", "csv", "--out", "most", cwd=root)
    assert prepared.returncode == 0, prepared.stderr
    choice = ("--data", "most", "--ids", "ids.parquet", "--out", "ids-2.parquet", "--json")
    extended = here("ids", "extend", trained.name, *choice, cwd=root)
    assert last_json(extended) == {"out": "ids-2.parquet", "items": 63, "new": 1}
    last = _by_item(load_ids(root / "ids-2.parquet"))
    assert {item: last[item] for item in after} == after
    foreign = here("ids", "extend", trained.name, "--data", "most", "--ids", "other.parquet", cwd=root)
    assert foreign.returncode == 2 and "other.parquet: no such file" in foreign.stderr


def _by_item(ids: ItemIds) -> dict[str, list[int]]:
    return dict(zip(ids.items, ids.codes.tolist(), strict=True))
