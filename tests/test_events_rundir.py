"""Events and the run directory: what is written is read back, and what is broken is named."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from streamrec_dist.config import Config
from streamrec_dist.config_file import differing_keys, parse_config
from streamrec_dist.errors import DataError, UsageError
from streamrec_dist.events import TAIL_BYTES, Event, EventLog, EventReader, last_event
from streamrec_dist.rundir import Checkpoint, RunDir, StageResult, newest_run

BEST = {"step": 0, "misses": 0, "metrics": {"ndcg@10": 0.5}}


def checkpoint(step: int) -> Checkpoint:
    state = {"epoch": step, "seconds": 1.5, "best": BEST, "cursor": step}
    return Checkpoint("pretrain", step, {"w": np.arange(step + 2, dtype=np.float32)}, state)


def test_events_survive_the_file(tmp_path: Path) -> None:
    log, reader = EventLog(tmp_path / "events.jsonl"), EventReader(tmp_path / "events.jsonl")
    assert reader.new() == []
    log.append(
        [Event("step", "rl", 3, 10, metrics={"loss": np.float32(0.5), "bad": math.nan, "by_step": [1, 2]})]
    )
    log.append([Event("warning", message="line\nbreak")])
    first, second = reader.new()
    assert (first.kind, first.stage, first.step, first.total) == ("step", "rl", 3, 10)
    assert first.metrics == {"loss": 0.5, "bad": None, "by_step": [1, 2]}
    assert second.message == "line\nbreak"
    assert reader.new() == []


def test_a_line_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = Event("run", state="started").to_json() + "\n"
    path.write_text(line + line[:10])
    reader = EventReader(path)
    assert len(reader.new()) == 1
    path.write_text(line + line)
    assert [event.state for event in reader.new()] == ["started"]


def test_an_unreadable_line_becomes_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("{not json}\n" + Event("run", state="done").to_json() + "\n")
    assert [event.kind for event in EventReader(path).new()] == ["warning", "run"]


def test_a_taken_name_and_a_bad_name_are_refused(tmp_path: Path) -> None:
    RunDir.create(tmp_path, "one", Config())
    with pytest.raises(UsageError, match="run one exists already; continue it with --resume"):
        RunDir.create(tmp_path, "one", Config())
    for name in ("../up", "", ".hidden", "a b", "x" * 65):
        with pytest.raises(UsageError, match="cannot name a run"):
            RunDir.create(tmp_path, name, Config())
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_run_knows_its_config(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "one", Config())
    assert run.config() == Config()
    run.check_same_config(parse_config("{actors: {rollout: {replicas: 3}}, cluster: {cpus: 8}}", "f"))
    with pytest.raises(UsageError, match=r"model.layers: 4 -> 1"):
        run.check_same_config(parse_config("model: {layers: 1}", "f"))


def test_a_run_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no runs in"):
        newest_run(tmp_path)
    RunDir.create(tmp_path, "one", Config())
    with pytest.raises(UsageError, match=r"no run two in .*; there are: one"):
        RunDir.open(tmp_path / "two")


def test_the_newest_run_is_the_one_with_the_last_event(tmp_path: Path) -> None:
    for name in ("one", "two"):
        EventLog(RunDir.create(tmp_path, name, Config()).events_path).append([Event("run", state="started")])
    earlier = (tmp_path / "two" / "config.yaml").stat().st_mtime - 100
    os.utime(tmp_path / "two" / "config.yaml", (earlier, earlier))
    EventLog(tmp_path / "two" / "events.jsonl").append([Event("step", "rl", 1)])
    assert newest_run(tmp_path).name == "one", "whichever was written to last"
    RunDir.open(tmp_path / "two").started()
    assert newest_run(tmp_path).name == "two"


def test_finished_stages_come_in_their_order(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "one", Config())
    for stage in ("pretrain", "tokenize"):
        run.finish_stage(StageResult(stage, 1.5, 10, {"loss": 0.25}))
    assert run.finished_stages() == ["tokenize", "pretrain"]
    assert run.stage_result("pretrain") == StageResult("pretrain", 1.5, 10, {"loss": 0.25})
    assert run.stage_result("rl") is None


def test_a_baseline_is_no_stage_and_never_the_last_model(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "one", Config())
    for name in ("tokenize", "tiger", "sasrec-bce"):
        run.finish_stage(StageResult(name, 1.5, 10, {}))
    assert run.finished_stages() == ["tokenize"]
    assert run.finished() == ["tokenize", "sasrec-bce", "tiger"]
    with pytest.raises(UsageError, match="no trained model yet"):
        run.last_model()


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "one", Config())
    for step in (1, 2, 3, 4, 5):
        run.save_checkpoint(checkpoint(step))
    assert run.checkpoint_steps("pretrain") == [4, 5]
    loaded = run.load_checkpoint("pretrain", 4)
    assert loaded.state == checkpoint(4).state
    np.testing.assert_array_equal(loaded.arrays["w"], checkpoint(4).arrays["w"])


def test_a_checkpoint_with_one_other_bit_is_damaged(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "one", Config())
    path = run.save_checkpoint(checkpoint(7)) / "arrays.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"step-00000007: damaged checkpoint .*not the bytes that were written"
    ):
        run.load_checkpoint("pretrain", 7)


def test_what_a_killed_process_left_of_a_checkpoint_goes_with_the_next(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "one", Config())
    left = run.path / "checkpoints" / "pretrain" / ".step-00000006.123"
    left.mkdir(parents=True)
    run.save_checkpoint(checkpoint(7))
    assert not left.exists()


@pytest.mark.parametrize("file", ["arrays.safetensors", "state.msgpack", "SHA256SUMS"])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, file: str) -> None:
    run = RunDir.create(tmp_path, "one", Config())
    path = run.save_checkpoint(checkpoint(7)) / file
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="step-00000007: damaged checkpoint"):
        run.load_checkpoint("pretrain", 7)
    path.unlink()
    with pytest.raises(DataError, match=f"{file}: missing"):
        run.load_checkpoint("pretrain", 7)


def test_weights_of_a_stage(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "one", Config())
    with pytest.raises(UsageError, match="no weights of stage sft"):
        run.load_weights("sft")
    run.save_weights("sft", {"w": np.ones((2, 3), np.float32).T})
    np.testing.assert_array_equal(run.load_weights("sft")["w"], np.ones((3, 2), np.float32))
    (run.path / "stages" / "sft.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"sft.safetensors: damaged or missing .*train stage sft again"):
        run.load_weights("sft")


def test_arrays_keep_their_shapes(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "one", Config())
    arrays = {
        "scalar": np.array(3.0, np.float32),
        "empty": np.zeros((0, 2), np.float32),
        "turned": np.eye(3)[:2].T,
    }
    run.save_checkpoint(replace(checkpoint(1), arrays=arrays))
    run.save_weights("rl", arrays)
    for loaded in (run.load_checkpoint("pretrain", 1).arrays, run.load_weights("rl")):
        assert {name: array.shape for name, array in loaded.items()} == {
            name: array.shape for name, array in arrays.items()
        }


def test_a_run_that_began_before_a_key_was_there_means_what_it_meant_then(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "runs", "old", Config())
    path = run.path / "config.yaml"
    text = path.read_text(encoding="utf-8")
    assert "  softmax: trie\n" in text
    path.write_text(text.replace("  softmax: trie\n", ""), encoding="utf-8")
    assert run.config().model.softmax == "codes"
    assert run.config(["model.softmax=trie"]).model.softmax == "trie"
    with pytest.raises(UsageError, match=r"model\.softmax: codes -> trie"):
        run.check_same_config(Config())


def test_a_run_of_the_time_without_evidence_is_one_without_it(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "runs", "old", Config())
    tree = Config().model_dump(mode="json")
    del tree["baselines"], tree["stages"]["retrieve"], tree["items"]["behaviour"]
    for section, names in {
        "model": ("evidence", "direct_evidence", "softmax"),
        "sft": ("annotated_items", "calibration", "history_dropout"),
        "pretrain": ("history_dropout",),
        "rl": ("rows",),
    }.items():
        part = tree["model"] if section == "model" else tree["stages"][section]
        for name in names:
            del part[name]
    # Its items were learnt after annotated thoughts alone.
    tree["stages"]["sft"]["own_thoughts"] = 0
    (run.path / "config.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert differing_keys(Config(), run.config()) == [
        "items.behaviour.weight: 1.5 -> 0.0",
        "model.evidence: 64 -> 0",
        "model.softmax: trie -> codes",
        "stages.retrieve.reranked: 128 -> 0",
        "stages.sft.own_thoughts: 0.8 -> 0.0",
        "stages.sft.annotated_items: 0.0 -> 1.0",
        "stages.rl.rows: named -> all",
    ]


def test_the_last_event_is_found_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert last_event(path) is None
    log = EventLog(path)
    for message in ("a", "b" * 10, "c" * (2 * TAIL_BYTES), "d" * (9 * TAIL_BYTES)):
        log.append([Event("warning", message=message)])
        found = last_event(path)
        assert found is not None and found.message == message
    with path.open("a") as file:
        file.write('{"kind": "unfinished')
    found = last_event(path)
    assert found is not None and found.message.startswith("ddd")
    path.write_text("")
    assert last_event(path) is None
