"""Every command without a cluster: help, wrong use, exit codes, and messages that say what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.app import app
from cli.commands.results import Judged, Model
from cli.decoding import DecodingOptions, decoding, suffix
from cli.demo import reward_course
from cli.follow import last_words, resume_line
from cli.here import this_place
from cli.output import clean, comparison, four, measured, show, span
from cli.plan import BaselineName, StageName, last_goal
from cli.record import ClusterRecord, read_record, root_of, write_private
from streamrec_dist.baselines.config import SCORES_ITEMS, TRAINED, BaselinesConfig, section_name
from streamrec_dist.config import Config
from streamrec_dist.errors import EnvironmentProblem, RunError, UsageError
from streamrec_dist.events import Event, EventLog
from streamrec_dist.rundir import STAGES, RunDir, StageResult
from streamrec_dist.stages.evaluate import BASELINES, WEIGHTS
from tests.conftest import REPO, last_json, run_cli


def commands(group: Any, path: str = "") -> Iterator[str]:
    """All that can be typed after the program's name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}"


COMMANDS = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert "Examples:" in shown.stdout and f"streamrec-dist {command}" in shown.stdout


def test_what_can_be_typed_is_what_there_is() -> None:
    assert set(BaselineName) == {*BASELINES, *TRAINED}
    assert set(StageName) == {*STAGES, "all"}
    assert set(Judged) == {*BASELINES, *WEIGHTS}
    assert set(Model) == set(WEIGHTS) - {*SCORES_ITEMS, *TRAINED}
    assert {section_name(name) for name in TRAINED} == {
        f"baselines.{key}" for key in BaselinesConfig.model_fields
    }


def test_help_waits_for_no_heavy_package_and_names_all_commands(tmp_path: Path) -> None:
    shown = run_cli("--help", cwd=tmp_path, variables={"PYTHONPROFILEIMPORTTIME": "1"})
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "cli.app" in imported or "cli.commands" in imported
    assert not imported & {"torch", "ray", "pyarrow"}
    named = {line.split()[1] for line in shown.stdout.splitlines() if line.startswith("│") and line[2] != " "}
    assert {command.split()[0] for command in COMMANDS} <= named
    assert {"train", "plan", "doctor", "logs", "scale", "data", "ids"} <= named


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "train --stage rl",
        "train --stage all --detach",
        "train --baseline tiger",
        "train --resume",
        "stop demo",
        "scale rollout=2",
        "logs rollout",
    ],
)
def test_without_a_cluster_the_line_to_type_is_given(command: str, folder: Path) -> None:
    RunDir.create(folder / "runs", "demo", Config())
    refused = run_cli(*command.split(), cwd=folder)
    assert refused.returncode == 3
    assert "streamrec-dist up cluster.yaml" in refused.stderr
    assert refused.stdout == "" and "Traceback" not in refused.stderr


def test_down_without_a_cluster_has_nothing_to_do(folder: Path) -> None:
    done = run_cli("down", "--json", cwd=folder)
    assert done.returncode == 0 and last_json(done) == {"state": "none"}
    assert "nothing to take down" in done.stderr


def test_who_asks_a_run_imports_its_controller_without_torch(tmp_path: Path) -> None:
    program = "import sys; from cli.asking import run_status; from cli.controller import Controller; "
    program += "sys.exit(bool({'torch', 'pyarrow', 'pandas'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment).returncode == 0


def test_the_version_is_told(tmp_path: Path) -> None:
    assert re.fullmatch(r"streamrec-dist \d+\.\d+\.\d+", run_cli("--version", cwd=tmp_path).stdout.strip())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train", "--stage"),
        ("train --stage warmup", "warmup"),
        ("train --stage rl --baseline sasrec", "one of --stage STAGE and --baseline NAME"),
        ("train --baseline caser", "caser"),
        ("train --baseline counting --run demo", "streamrec-dist evaluate demo --stage counting"),
        ("train --baseline popularity", "streamrec-dist evaluate --stage popularity"),
        ("train --stage rl --resume --from demo", "give one of them"),
        ("scale rollout", "'rollout' is not ROLE=NUMBER"),
        ("scale rollout=²", "'rollout=²' is not ROLE=NUMBER"),
        ("scale rollout=-1", "'rollout=-1' is not ROLE=NUMBER"),
        ("plan --set actors.rollout.replicas=44444", "actors.rollout.replicas"),
        ("plan nowhere.yaml", "nowhere.yaml: no such file"),
        ("plan --set data.path=nowhere", "nowhere"),
        ("doctor nowhere.yaml", "nowhere.yaml: no such file"),
        ("watch", "no runs in"),
        ("watch nobody", "no run nobody in"),
        ("evaluate", "no runs in"),
        ("evaluate --split train", "train"),
        ("evaluate --stage tokenize", "tokenize"),
        ("evaluate --thoughts deep", "'greedy', 'sampled', 'beam'"),
        ("evaluate --samples 0", "--samples"),
        ("recommend --user 1 --beam 0", "--beam"),
        ("recommend", "one of --user U and --history"),
        ("recommend --user 1 --history 1,2", "one of --user U and --history"),
        ("recommend --history ,", "--history is empty"),
        ("recommend --user 1 -k 0", "-k"),
        ("up nowhere.yaml", "nowhere.yaml: no such file; `streamrec-dist init` writes one"),
        ("data prepare shop --format lcrec --out there", "shop"),
        ("data prepare nowhere --format csv --out there", "nowhere"),
        ("data prepare shop --out there", "give --format F, or --recipe NAME"),
        ("data prepare shop --format cvs --out there", "did you mean 'csv'"),
        ("data prepare shop --recipe rearec/sofware --out there", "did you mean 'rearec/software'"),
        ("data prepare shop --format csv --split last --out there", "expected leave-one-out, or"),
        ("data prepare shop --format csv --split 1,2 --out there", "needs the times of the events"),
        ("data prepare shop --format csv --min-rating 3 --out there", "no event has a rating"),
        ("data prepare shop --format csv --user-core 99 --out there", "there are no users"),
        ("data prepare shop --format csv --on-error ignore --out there", "ignore"),
        ("data prepare shop --format csv --out shop", "holds files but no dataset.json"),
        ("data describe shop", "prepare the data first"),
        ("dance", "dance"),
    ],
)
def test_wrong_use_is_exit_2_and_says_what_is_wrong(command: str, said: str, folder: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())
    refused = run_cli(*command.split(), cwd=folder)
    assert refused.returncode == 2, refused.stderr
    assert said in refused.stderr and "Traceback" not in refused.stderr
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_wrong_config_is_refused_before_anything_starts(folder: Path) -> None:
    (folder / "cluster.yaml").write_text("seed: 1\nlerners: {}\n", encoding="utf-8")
    refused = run_cli("up", cwd=folder)
    assert refused.returncode == 2
    assert "cluster.yaml:2: lerners: no such key; did you mean learners?" in refused.stderr
    assert not (folder / ".streamrec").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("init /proc/new", "/proc/new: No such file or directory; choose a place that is there"),
        ("init cluster.yaml/new", "Not a directory; choose another place, or move what is in the way there"),
        ("up", ".streamrec: no folder for a cluster's secret"),
    ],
)
def test_what_the_system_refuses_is_exit_3_and_one_line(command: str, said: str, folder: Path) -> None:
    (folder / ".streamrec").touch()
    refused = run_cli(*command.split(), cwd=folder)
    assert refused.returncode == 3, refused.stderr
    assert said in refused.stderr.splitlines()[-1] and "Traceback" not in refused.stderr
    assert refused.stderr.count("error: ") == 1


def test_init_writes_the_default_once(tmp_path: Path) -> None:
    assert run_cli("init", "new", cwd=tmp_path).returncode == 0
    written = tmp_path / "new" / "cluster.yaml"
    assert written.read_text(encoding="utf-8") == files("cli").joinpath("cluster.yaml").read_text(
        encoding="utf-8"
    )
    written.write_text("seed: 5\n", encoding="utf-8")
    again = run_cli("init", "new", cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr
    assert written.read_text(encoding="utf-8") == "seed: 5\n"


def test_data_prepare_writes_and_describes(folder: Path) -> None:
    done = run_cli("data", "prepare", "shop", "--format", "csv", "--out", "prepared", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    about = last_json(done)
    assert about["users"] == 80 and about["items"] == 60 and about["interactions"] == 480
    assert (folder / "prepared" / "dataset.json").is_file()
    for options in ([], ["--verify"]):
        shown = run_cli("data", "describe", "prepared", "--json", *options, cwd=folder)
        described = last_json(shown)
        assert described["verified"] == bool(options)
        assert described["content_hash"] == about["content_hash"]
        assert (described["length_quantiles"]["50"], described["repeat_share"]) == (6, 0)
    (items,) = (folder / "prepared").rglob("items.arrow")
    content = items.read_bytes()
    items.write_bytes(content.replace(b"lamp", b"lump"))
    assert run_cli("data", "describe", "prepared", cwd=folder).returncode == 0
    refused = run_cli("data", "describe", "prepared", "--verify", cwd=folder)
    assert refused.returncode == 2 and "its content is not what dataset.json recorded" in refused.stderr


def test_a_recipe_from_the_command_line(folder: Path) -> None:
    interactions = folder / "shop" / "interactions.csv"
    lines = interactions.read_text(encoding="utf-8").splitlines()
    timed = [f"{line},{day}" for day, line in enumerate(lines[1:])]
    interactions.write_text("\n".join(["user,item,timestamp", *timed, "u0,i0,soon"]) + "\n", encoding="utf-8")
    command = [
        "data",
        "prepare",
        "shop",
        "--format",
        "csv",
        "--out",
        "prepared",
        "--json",
        "--user-core",
        "5",
    ]
    stopped = run_cli(*command, cwd=folder)
    assert stopped.returncode == 2 and "interactions.csv:482: timestamp: " in stopped.stderr
    assert not (folder / "prepared").exists()
    command += ["--item-core", "7", "--split", "300000,400000", "--on-error", "skip"]
    done = run_cli(*command, cwd=folder)
    assert done.returncode == 0, done.stderr
    about = last_json(done)
    assert about["problems"] == {"broken_event": 1}
    assert about["recipe"]["split"] == "300000,400000"
    assert (about["recipe"]["user_core"], about["recipe"]["item_core"]) == (5, 7)
    assert 0 < about["users"] < 80 and about["items_never_used"] == 0
    assert about["valid_targets"] > 0 and about["test_targets"] > 0


def test_the_counts_of_a_paper_are_set_beside_ours(folder: Path) -> None:
    interactions = (folder / "shop" / "interactions.csv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [f"{line},5.0,{1_600_000_000_000 + number}" for number, line in enumerate(interactions)]
    (folder / "raw").mkdir()
    (folder / "raw" / "Scientific.csv").write_text(
        "\n".join(["user_id,parent_asin,rating,timestamp", *rows]) + "\n", encoding="utf-8"
    )
    (folder / "raw" / "meta_Scientific.jsonl").touch()
    command = ["data", "prepare", "raw", "--out", "prepared", "--recipe", "stream-rec/scientific"]
    done = run_cli(*command, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "50,985" in done.stdout and "-50,945" in done.stdout
    as_json = last_json(run_cli(*command, "--json", cwd=folder))
    assert (as_json["expected"]["users"], as_json["recipe"]["name"]) == (50_985, "stream-rec/scientific")
    same = last_json(run_cli(*command, "--format", "amazon2023", "--user-core", "5", "--json", cwd=folder))
    assert (same["expected"], same["recipe"]) == (as_json["expected"], as_json["recipe"])
    # Another filter than the paper's, or other data, have no counts to expect.
    for changed in (["raw", "--user-core", "6"], ["shop", "--format", "csv"]):
        command[2] = changed[0]
        other = last_json(run_cli(*command, *changed[1:], "--json", cwd=folder))
        assert (other["expected"], other["recipe"]["name"]) == (None, "stream-rec/scientific (changed)")


def test_a_rating_that_is_no_number_is_refused(folder: Path) -> None:
    command = ["data", "prepare", "shop", "--format", "csv", "--out", "prepared", "--min-rating", "nan"]
    refused = run_cli(*command, cwd=folder)
    assert refused.returncode == 2 and "min_rating nan: expected a finite number" in refused.stderr


def test_known_data_sets_are_listed(folder: Path) -> None:
    shown = run_cli("data", "list", "--json", cwd=folder)
    listed = last_json(shown)
    assert {"lcrec", "csv", "parquet"} <= set(listed["formats"])
    names = {one["name"]: one for one in listed["sets"]}
    assert names["rearec/yelp"]["filter"] == "rating > 3, users >= 20, items >= 20"
    assert "rearec/yelp" in run_cli("data", "list", cwd=folder).stdout


def test_an_address_that_does_not_answer_is_an_environment_problem(folder: Path) -> None:
    (folder / "cluster.yaml").write_text("cluster: {address: 'localhost:1'}\n", encoding="utf-8")
    refused = run_cli("up", cwd=folder)
    assert refused.returncode == 3 and "no answer from localhost:1" in refused.stderr
    assert not (folder / ".streamrec" / "cluster.json").exists()


def test_a_run_with_nothing_to_evaluate_says_how_to_go_on(folder: Path) -> None:
    run = RunDir.create(folder / "runs", "demo", Config())
    run.finish_stage(StageResult("tokenize", 1.0, 1))
    refused = run_cli("evaluate", cwd=folder)
    assert refused.returncode == 2 and "--resume --run demo" in refused.stderr


def test_how_one_evaluation_is_decoded(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "runs", "demo", Config())
    as_configured = DecodingOptions().config(run, "rl")
    assert as_configured == run.config() and suffix(decoding("rl", as_configured)) == "-greedy-beam20"
    config = DecodingOptions("sampled", 16, 50).config(run, "rl")
    assert decoding("rl", config) == {"thoughts": "sampled", "steps": 4, "samples": 16, "beam": 50}
    assert suffix(decoding("rl", config)) == "-sampled16-beam50"
    assert suffix(decoding("direct", DecodingOptions(beam=50).config(run, "direct"))) == "-beam50"
    assert decoding("counting", config) is None and suffix(None) == ""


@pytest.mark.parametrize(
    ("options", "stage", "said"),
    [
        (
            DecodingOptions(thoughts="sampled"),
            "direct",
            "--thoughts: the model of stage direct decodes items",
        ),
        (DecodingOptions(thoughts="beam"), "pretrain", "decodes retrieved items, always greedily"),
        (DecodingOptions(samples=4), "rl", "--samples 4 needs --thoughts sampled; now they are greedy"),
        (DecodingOptions("beam", samples=4), "sft", "now they are beam"),
        (DecodingOptions(beam=50), "counting", "--beam: counting decodes nothing"),
        (DecodingOptions(beam=50), "sasrec-bce", "--beam: sasrec-bce decodes nothing"),
        (DecodingOptions(samples=4), "tiger", "--samples: the model of stage tiger decodes items"),
        (DecodingOptions(beam=0), "rl", "stages.evaluate.beam"),
        (DecodingOptions(thoughts="beams"), "rl", "did you mean beam?"),
    ],
)
def test_options_that_a_stage_has_no_use_for_are_refused(
    options: DecodingOptions, stage: str, said: str, tmp_path: Path
) -> None:
    run = RunDir.create(tmp_path / "runs", "demo", Config())
    with pytest.raises(UsageError) as refused:
        options.config(run, stage)
    assert said in str(refused.value)


def test_a_run_that_nobody_works_on_is_called_dead(folder: Path) -> None:
    run = RunDir.create(folder / "runs", "demo", Config())
    long_ago = time.time() - 3600
    EventLog(run.events_path).append([Event("step", "rl", 7, 9, metrics={"reward/total": 1.5}, t=long_ago)])
    watched = run_cli("watch", "demo", cwd=folder)
    assert watched.returncode == 1
    assert "its last event: rl 7/9 total 1.5000" in watched.stderr
    assert "streamrec-dist train --stage all --resume --run demo" in watched.stderr


def test_records_are_private_and_found_from_below(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").touch()
    (tmp_path / "configs").mkdir()
    assert root_of(tmp_path / "cluster.yaml") == tmp_path
    assert root_of(tmp_path / "configs" / "big.yaml") == tmp_path
    record = ClusterRecord(
        str(tmp_path),
        str(tmp_path / "cluster.yaml"),
        "0123456789abcdef" * 2,
        True,
        this_place(),
        "127.0.0.1:1",
    )
    record.folder.mkdir()
    record.save()
    assert (record.folder / "cluster.json").stat().st_mode & 0o777 == 0o600
    assert read_record(tmp_path) == record
    (record.folder / "cluster.json").write_text("{}")
    with pytest.raises(EnvironmentProblem, match="remove the file"):
        read_record(tmp_path)


def test_private_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["token"]


def test_the_reward_course_is_that_of_the_last_try_of_each_step(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "demo", Config())
    with pytest.raises(RunError, match="no steps of stage rl"):
        reward_course(run)
    steps = [
        Event("step", "rl", step, 10, metrics={"reward/total": float(step)}) for step in (1, 2, 3, 3, 4, 5)
    ]
    resumed = [
        Event("step", "rl", step, 10, metrics={"reward/total": 10.0 * step}) for step in (5, 6, 7, 8, 9, 10)
    ]
    EventLog(run.events_path).append([*steps, *resumed])
    assert reward_course(run) == (1.5, 95.0)
    assert last_words(run) == "its last event: rl 10/10 total 100"


def test_a_run_is_continued_towards_what_it_was_last_about(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "one", Config())
    log = EventLog(run.events_path)
    assert last_goal(run) == "rl"
    assert resume_line(run) == "streamrec-dist train --stage all --resume --run one"
    for stages, goal, wanted in (
        (["tokenize", "sasrec-bce"], "sasrec-bce", "--baseline sasrec-bce"),
        (["pretrain", "sft"], "sft", "--stage all"),
        (["no-such-stage"], "rl", "--stage all"),
    ):
        log.append([Event("run", state="started", metrics={"stages": stages}), Event("run", state="failed")])
        assert last_goal(run) == goal
        assert resume_line(run) == f"streamrec-dist train {wanted} --resume --run one"


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert (four(0.0305), four(1.0), four(0.0)) == (".0305", "1.0000", ".0000")
    assert [span(seconds) for seconds in (0.4, 59, 185, 7805)] == ["0 s", "59 s", "3 min 05 s", "2 h 10 min"]
    result = {"recall@10": 0.25, "recall@10_ci": [0.2, 0.3]}
    assert measured(result, "recall@10").plain == ".2500\n[.2000 .3000]"
    assert measured(result, "ndcg@5").plain == "-"
    assert clean("a\x1b[31mb") == "a\ufffd[31mb"
    show(comparison("SYNTHETIC [red]", [("after [bold]RL[/bold]", result)]))
    shown = capsys.readouterr().out
    assert "SYNTHETIC [red]" in shown and "after [bold]RL[/bold]" in shown and "[.2000 .3000]" in shown
