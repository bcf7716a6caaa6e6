"""What a run measured, in the formats of other programs: nothing is lost, nothing is there twice, nothing escapes."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import re
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tensorboardX.proto.event_pb2 import Event as Record
from tensorboardX.proto.event_pb2 import SessionLog
from tensorboardX.record_writer import masked_crc32c
from typer.testing import CliRunner

from cli.app import app
from cli.exports import exporter as exporter_module
from cli.exports import parquet, prometheus
from cli.exports.exporter import Exporter, Exporting, numbers
from cli.exports.parquet import ParquetTable
from cli.exports.prometheus import Prometheus
from cli.exports.tensorboard import TensorBoard
from streamrec_dist.config import Config
from streamrec_dist.events import Event, EventLog, EventReader
from streamrec_dist.rundir import RunDir
from streamrec_dist.types import REWARDS
from tests.test_spans import no_file_beyond

NASTY = 'a"b\\c\n\x1b[31m\u2028{},=}'


def rl_step(step: int) -> Event:
    rewards = {f"{kind}/{name}": step / 8 for kind in ("reward", "spread", "share") for name in REWARDS}
    rest = dict.fromkeys(
        (
            *(
                "loss",
                "kl",
                "entropy",
                "grad_norm",
                "lr",
                "staleness",
                "adopted_s",
                "learner_idle",
                "rollout_idle",
            ),
            *(
                "rollouts_per_s",
                "groups_per_s",
                "tokens_per_s",
                "version",
                "time/generate",
                "time/wait_rollout",
            ),
        ),
        step / 4,
    )
    metrics = {"reward/total": step / 2, **rewards, **rest, "staleness_counts": [6, 2], "nothing": None}
    return Event("step", "rl", step, 9, metrics=metrics, t=2000.0 + step)


def worker(role: str, number: int) -> dict[str, Any]:
    known = {
        "node": "head",
        "pid": 7,
        "state": "ready",
        "version": 3,
        "rate": 2.5,
        "memory_mib": 10,
        "restarts": 1,
    }
    return {"role": role, "number": number, **known}


def whole_run() -> list[Event]:
    """Every kind of event, folds that count anew, and steps that were made again after a resume."""
    roles = ("rollout", "reward", "evaluate", "learners")
    return [
        Event("run", state="started", metrics={"stages": ["retrieve", "sft", "rl"]}, t=1000.0),
        *(
            Event("step", "retrieve", n, 3, metrics={"loss": 1 / n, "rows_per_s": 5}, t=1000.0 + n)
            for n in (1, 2, 3)
        ),
        *(
            Event("step", "retrieve", n, 2, metrics={"loss": 2 / n, "rows_per_s": 5, "fold": 1}, t=1010.0 + n)
            for n in (1, 2)
        ),
        Event("round", "sft", 1, metrics={"leak": 2.5, "distance": [0.4, 0.2]}, t=1100.0),
        Event(
            "stage", "sft", state="done", step=4, metrics={"seconds": 9.5, "counts": {"sent": 3}}, t=1101.0
        ),
        *(rl_step(step) for step in range(1, 7)),
        Event(
            "eval", "rl", 4, split="valid", metrics={"ndcg@10": 0.125, "ndcg@10_ci": [0.1, 0.15]}, t=2006.5
        ),
        Event("workers", "rl", metrics={"processes": [worker(role, 0) for role in roles]}, t=2006.6),
        Event("warning", "rl", message=NASTY, t=2006.7),
        Event("run", state="started", metrics={"stages": ["rl"]}, t=2100.0),
        *(rl_step(step) for step in (5, 6, 7)),
        Event("run", state="done", t=2200.0),
    ]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    (tmp_path / "cluster.yaml").write_text("seed: 1\n", encoding="utf-8")
    return RunDir.create(tmp_path / "runs", "one", Config())


@pytest.fixture
def done(run: RunDir) -> RunDir:
    EventLog(run.events_path).append(whole_run())
    return run


def exported(exporter: Exporter) -> Exporter:
    exporter.read()
    exporter.close()
    return exporter


def typed(root: Path, *arguments: str) -> Any:
    with contextlib.chdir(root):
        return CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1"}).invoke(app, list(arguments))


def test_numbers_are_told_from_what_is_none() -> None:
    metrics = {"a": 1, "b": [0.5, None, 2], "c": None, "d": True, "e": "x", "f": {"g": 1}, "h": []}
    assert list(numbers(metrics)) == [("a", 1.0), ("b/0", 0.5), ("b/2", 2.0)]


# TensorBoard


def records(path: Path) -> Iterator[Record]:
    """The records of an event file, their checksums verified."""
    data = path.read_bytes()
    while data:
        (size,), (check,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        body, (sum_of_body,) = data[12 : 12 + size], struct.unpack("<I", data[12 + size : 16 + size])
        assert check == masked_crc32c(data[:8]) and sum_of_body == masked_crc32c(body)
        yield Record.FromString(body)
        data = data[16 + size :]


def curves(folder: Path) -> dict[str, dict[str, list[tuple[int, float, float]]]]:
    """Steps, values and times by series and tag, as TensorBoard shows them: a session that starts at a step takes the
    place of what was there from it on."""
    found: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for series in sorted(folder.iterdir()):
        (path,) = series.glob("events.out.tfevents.*")
        tags = found.setdefault(series.name, {})
        for record in records(path):
            if record.session_log.status == SessionLog.START:
                for tag, points in tags.items():
                    tags[tag] = [point for point in points if point[0] < record.step]
            for value in record.summary.value:
                tags.setdefault(value.tag, []).append((record.step, value.simple_value, record.wall_time))
    return found


def test_tensorboard_files_have_every_curve_once(done: RunDir) -> None:
    exported(TensorBoard(done))
    found = curves(done.path / "tensorboard")
    assert set(found) == {"retrieve", "retrieve-fold-1", "sft", "rl"}
    assert found["retrieve"]["loss"] == [(1, 1, 1001.0), (2, 0.5, 1002.0), (3, pytest.approx(1 / 3), 1003.0)]
    assert found["retrieve-fold-1"]["loss"] == [(1, 2, 1011.0), (2, 1, 1012.0)]
    assert found["sft"] == {
        "round/leak": [(1, 2.5, 1100.0)],
        "round/distance/0": [(1, pytest.approx(0.4), 1100.0)],
        "round/distance/1": [(1, pytest.approx(0.2), 1100.0)],
    }
    rl = found["rl"]
    assert rl["reward/total"] == [(step, step / 2, 2000.0 + step) for step in range(1, 8)]
    assert rl["valid/ndcg@10"] == [(4, 0.125, 2006.5)] and "nothing" not in rl
    assert len(rl["staleness_counts/1"]) == 7


def test_tensorboard_files_are_written_anew_and_others_left_alone(done: RunDir, tmp_path: Path) -> None:
    folder = tmp_path / "board"
    (folder / "rl").mkdir(parents=True)
    (folder / "rl" / "events.out.tfevents.1.other").write_bytes(b"theirs")
    for _ in range(2):
        exported(TensorBoard(done, folder))
        (ours,) = (folder / "rl").glob("*.streamrec")
        first = next(one for one in records(ours) if one.session_log.status == SessionLog.START)
        assert first.step == 0, "one that shows an earlier export forgets it"
    assert (folder / "rl" / "events.out.tfevents.1.other").read_bytes() == b"theirs"


def test_names_of_stages_are_no_paths(run: RunDir, tmp_path: Path) -> None:
    names = ["../up", "/tmp/x", "..", "", "a/b", "x" * 300, "fine", *(f"s{number}" for number in range(60))]
    EventLog(run.events_path).append([Event("step", name, 1, metrics={"loss": 1.0}) for name in names])
    before = set(tmp_path.rglob("*"))
    exported(TensorBoard(run))
    made = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(run.path / "tensorboard") for path in made)
    folders = {path.name for path in (run.path / "tensorboard").iterdir()}
    assert "fine" in folders and len(folders) == 50


# Parquet


def test_the_table_has_a_row_an_event_and_a_column_a_metric(
    done: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROWS", 4)
    path = tmp_path / "new" / "events.parquet"
    exported(ParquetTable(done, path))
    assert [one.name for one in path.parent.iterdir()] == ["events.parquet"]
    assert pq.ParquetFile(path).num_row_groups == -(-len(whole_run()) // 4), "in bounded memory"
    assert pq.read_schema(path).metadata[b"streamrec.schema"] == b"1"
    table, events = pl.read_parquet(path), whole_run()
    assert len(table) == len(events)
    for row, event in zip(table.iter_rows(named=True), events, strict=True):
        told = (row["t"].timestamp(), *(row[name] for name in parquet.FIELDS if name != "t"))
        assert told == (event.t, *(getattr(event, name) for name in parquet.FIELDS if name != "t"))
        more = json.loads(row["more"] or "{}")
        for name, value in event.metrics.items():
            assert (row[name] if name in row and row[name] is not None else more.get(name)) == value
    rl = table.filter(pl.col("stage") == "rl", pl.col("kind") == "step")
    assert rl["reward/total"].to_list() == [step / 2 for step in (1, 2, 3, 4, 5, 6, 5, 6, 7)]
    assert table.filter(pl.col("kind") == "warning")["message"].to_list() == [NASTY]


def test_no_metric_takes_the_place_of_a_field_or_makes_too_many_columns(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "COLUMNS", 5)
    metrics = {"step": 7, "more": 8, NASTY: 1, "": 2, "a": 3, "b": 4}
    EventLog(run.events_path).append([Event("step", "rl", 1, metrics=metrics, t=5.0)])
    exported(ParquetTable(run))
    (row,) = pl.read_parquet(run.path / "events.parquet").iter_rows(named=True)
    assert (row["step"], row[NASTY], row[""], row["a"]) == (1, 1.0, 2.0, 3.0)
    assert json.loads(row["more"]) == {"step": 7, "more": 8, "b": 4}


def test_a_table_that_is_not_finished_leaves_nothing_behind(
    done: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ParquetTable(done)
    with no_file_beyond(100), pytest.raises(OSError):
        exported(table)
    assert not [path for path in done.path.iterdir() if "parquet" in path.name]

    def interrupted(table: ParquetTable, events: list[Event]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ParquetTable, "take", interrupted)
    assert typed(done.path.parents[1], "export", "one", "--parquet").exit_code == 130
    assert not [path for path in done.path.iterdir() if "parquet" in path.name]


# beside a view


def test_an_export_follows_a_run_until_it_is_left(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_module, "FOLLOW_S", 0.02)
    log, events = EventLog(run.events_path), whole_run()
    branch = run.branch("two", Config(), ["rl"])
    assert branch.inherited_path.read_text() == ""
    log.append(events[:8])
    with Exporting([TensorBoard(run)]):
        deadline = time.monotonic() + 20
        while not (run.path / "tensorboard" / "retrieve").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        log.append(events[8:])
    assert len(curves(run.path / "tensorboard")["rl"]["loss"]) == 7, "what came last is exported too"


def test_what_a_run_has_from_another_is_exported_with_it(done: RunDir) -> None:
    branch = done.branch("two", Config(), ["retrieve"])
    EventLog(branch.events_path).append([rl_step(1)])
    exported(TensorBoard(branch))
    assert set(curves(branch.path / "tensorboard")) == {"retrieve", "retrieve-fold-1", "rl"}
    exported(ParquetTable(branch))
    assert len(pl.read_parquet(branch.path / "events.parquet")) == 6


def test_an_export_that_fails_costs_nothing_but_itself(
    done: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter_module, "FOLLOW_S", 0.02)
    before = done.events_path.read_bytes()
    board = TensorBoard(done)
    with no_file_beyond(300), Exporting([board]) as nothing:
        assert nothing is None
    said = capsys.readouterr().err
    assert said.startswith("warning: given up: TensorBoard files in") and "File too large" in said
    assert done.events_path.read_bytes() == before


# Prometheus


@pytest.fixture
def endpoint(done: RunDir) -> Iterator[Prometheus]:
    served = Prometheus(done, port=0)
    yield served
    served.asked = 0  # the end of the run is waited for by nobody
    served.close()


def asked(
    endpoint: Prometheus, path: str = "/metrics", method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.server.server_port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read().decode()
    finally:
        connection.close()


def samples(text: str) -> dict[tuple[str, frozenset], float]:
    """The values of an answer by name and labels; none is there twice."""
    found = [one for family in text_string_to_metric_families(text) for one in family.samples]
    known = {(one.name, frozenset(one.labels.items())): one.value for one in found}
    assert len(known) == len(found)
    return known


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset({"run": "one", **labels}.items())]


def test_prometheus_is_told_what_the_run_is_at(endpoint: Prometheus) -> None:
    answer, text = asked(endpoint)
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert value(text, "streamrec_run_state", state="done") == 1
    assert value(text, "streamrec_run_state", state="going") == 0
    assert value(text, "streamrec_steps", stage="rl") == 7
    assert value(text, "streamrec_steps_planned", stage="rl") == 9
    assert value(text, "streamrec_reward", stage="rl", reward="total") == 3.5
    assert value(text, "streamrec_reward_spread", stage="rl", reward="format") == 7 / 8
    assert value(text, "streamrec_time_seconds", stage="rl", part="wait_rollout") == 7 / 4
    assert value(text, "streamrec_step_kl", stage="rl") == 7 / 4
    assert value(text, "streamrec_stale_prompts", stage="rl", behind="1") == 2 * 7
    assert value(text, "streamrec_evaluation", stage="rl", measure="ndcg@10") == 0.125
    assert value(text, "streamrec_warnings_total") == 1 and value(text, "streamrec_starts_total") == 2
    # A run that is started again has other processes: those that it last told of are of before.
    assert not [name for name, _ in samples(text) if name.startswith("streamrec_worker")]
    assert "no_such_stage" not in text and 'stage="pretrain"' not in text, "of stages that it has begun"


def test_prometheus_is_told_of_processes(run: RunDir) -> None:
    before = whole_run()[:-5]
    EventLog(run.events_path).append([*before[:-1], replace(before[-1], t=time.time())])
    served = Prometheus(run, port=0)
    text = asked(served)[1]
    at = {"role": "rollout", "number": "0", "node": "head"}
    assert value(text, "streamrec_worker_memory_bytes", **at) == 10 * 2**20
    assert value(text, "streamrec_worker_restarts_total", **at) == 1
    assert value(text, "streamrec_worker_calls_per_second", **at) == 2.5
    assert value(text, "streamrec_run_state", state="going") == 1
    # And what the run does next.
    EventLog(run.events_path).append([rl_step(8)])
    served.read()
    text = asked(served)[1]
    assert value(text, "streamrec_steps", stage="rl") == 8
    # That event is of long ago: nobody may be left who works on the run.
    assert value(text, "streamrec_run_state", state="silent") == 1
    served.close()


def test_prometheus_listens_at_an_address_of_ipv6_too(run: RunDir) -> None:
    EventLog(run.events_path).append(whole_run()[:-1])
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    served = Prometheus(run, host="::1", port=0)
    assert re.fullmatch(r"Prometheus endpoint at http://\[::1\]:\d+/metrics", served.about)
    with urllib.request.urlopen(served.about.removeprefix("Prometheus endpoint at "), timeout=10) as answer:
        assert b"streamrec_steps" in answer.read()
    served.close()


def test_the_dashboard_asks_for_what_is_served(run: RunDir) -> None:
    EventLog(run.events_path).append(whole_run()[:-5])
    served = Prometheus(run, port=0)
    known = {name for name, _ in samples(asked(served)[1])}
    served.close()
    dashboard = json.loads(resources.files("cli.exports").joinpath("grafana.json").read_text())
    assert dashboard["uid"] and dashboard["title"] and dashboard["schemaVersion"] >= 36
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert (
        variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    )
    places, expressions = [], [variables["run"]["query"]["query"]]
    for panel in dashboard["panels"]:
        assert set(panel["gridPos"]) == {"h", "w", "x", "y"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        columns, rows = (range(place[at], place[at] + place[size]) for at, size in ("xw", "yh"))
        places += [(x, y) for x in columns for y in rows]
        for target in panel.get("targets", ()):
            assert (
                target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            )
            expressions.append(target["expr"])
    assert len(places) == len(set(places)), "panels do not overlap"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    named = [set(re.findall(r"streamrec_\w+", one)) for one in expressions]
    assert all(named) and len(expressions) > 25
    assert set().union(*named) <= known
    assert typed(run.path, "export", "--grafana").stdout == json.dumps(dashboard, indent=1) + "\n"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:9464", 200),
        ("[::1]:9464", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:9464", 421),
        ("10.0.0.5:9464", 421),
    ],
)
def test_only_who_means_this_machine_is_answered(endpoint: Prometheus, host: str, status: int) -> None:
    answer, text = asked(endpoint, Host=host)
    assert answer.status == status and ("streamrec_" in text) == (status == 200)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_nothing_else_is_served(endpoint: Prometheus) -> None:
    assert endpoint.server.server_address[0] == "127.0.0.1"
    assert "/metrics" in asked(endpoint, "/")[1]
    for path in ("/metrics/", "/../etc/passwd", "/favicon.ico", "/metrics?name[]=x", "*"):
        assert asked(endpoint, path)[0].status == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        assert asked(endpoint, method=method)[0].status == 501
    with socket.create_connection(("127.0.0.1", endpoint.server.server_port), timeout=10) as raw:
        raw.sendall(b"\x00\xff" * 40000 + b"\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"200" not in raw.recv(100)
    assert asked(endpoint)[0].status == 200


def test_names_from_anybody_stay_in_their_labels(run: RunDir) -> None:
    names = {
        NASTY: 1,
        "kl": 2,
        "k@": 3,
        "k#": 4,
        "reward/" + NASTY: 5,
        "": 6,
        "x" * 5000: 7,
        "reward/kl": True,
    }
    hostile = {"role": NASTY, "number": {"a": 1}, "node": None, "state": [], "rate": "x", "memory_mib": 1e308}
    EventLog(run.events_path).append(
        [
            Event("step", NASTY, 3, metrics=names, t=5.0),
            Event("workers", metrics={"processes": [hostile, hostile, 7, {}]}, t=6.0),
        ]
    )
    served = Prometheus(run, port=0)
    text = asked(served)[1]
    served.close()
    assert value(text, "streamrec_reward", stage=NASTY, reward=NASTY) == 5
    assert value(text, "streamrec_step_kl", stage=NASTY) == 2
    assert value(text, "streamrec_step_k_", stage=NASTY) == 3, "the first of those that come down to one name"
    assert max(len(line) for line in text.splitlines()) < 2000 and "\x1b" in text
    assert {name for name, _ in samples(text)} <= set(re.findall(r"streamrec_[a-zA-Z0-9_]+", text))


def test_the_end_of_a_run_is_there_to_be_asked_for(done: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "LAST_S", 30.0)
    alone = Prometheus(done, port=0)
    began = time.monotonic()
    alone.close()
    assert time.monotonic() - began < 5, "nobody has asked, and nobody is waited for"
    served = Prometheus(done, port=0)
    asked(served)
    closing = threading.Thread(target=served.close)
    closing.start()
    closing.join(0.3)
    assert closing.is_alive()
    assert value(asked(served)[1], "streamrec_run_state", state="done") == 1
    closing.join(10)
    assert not closing.is_alive()
    with pytest.raises(ConnectionError):
        asked(served)


# Weights & Biases


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra `wandb` is not installed")
def test_weights_and_biases_gets_every_curve(
    done: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    from cli.exports.wandb import WeightsAndBiases

    exporter = WeightsAndBiases(done)
    exporter.read()
    summary = dict(exporter.logged.summary)
    config = dict(exporter.logged.config)
    exporter.close()
    assert (summary["rl/reward/total"], summary["rl/step"], summary["rl/valid/ndcg@10"]) == (3.5, 7, 0.125)
    assert summary["retrieve-fold-1/loss"] == 1 and summary["sft/round/distance/1"] == 0.2
    assert config["seed"] == 1 and "cluster" not in config
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    # What it keeps has links that lead anywhere: not in a run.
    assert RunDir.open(done.path).path == done.path and not list(done.path.glob("wandb*"))


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="the extra `wandb` is installed")
def test_weights_and_biases_says_what_it_lacks(done: RunDir) -> None:
    refused = typed(done.path.parents[1], "export", "one", "--wandb")
    assert refused.exit_code == 3 and "pip install 'streamrec-dist[wandb]'" in refused.stderr


# the commands


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "wants one of --tensorboard"),
        (("--tensorboard", "--parquet"), "wants one of"),
        (("--parquet", "--follow"), "--parquet has no use for --follow"),
        (("--tensorboard", "--port", "1"), "no use for --port"),
        (("--prometheus", "--out", "x"), "no use for --out"),
        (("--grafana", "--project", "x"), "no use for --project"),
    ],
)
def test_options_that_mean_nothing_are_refused(done: RunDir, arguments: tuple[str, ...], said: str) -> None:
    refused = typed(done.path.parents[1], "export", "one", *arguments)
    assert refused.exit_code == 2 and said in refused.stderr


def test_the_commands_export_runs_that_ended(done: RunDir) -> None:
    root = done.path.parents[1]
    for options in ("--tensorboard --out board", "--parquet --out e.parquet", "--tensorboard --follow"):
        exported = typed(root, "export", "one", *options.split())
        assert exported.exit_code == 0, exported.stderr
    assert curves(root / "board") == curves(done.path / "tensorboard")
    assert len(pl.read_parquet(root / "e.parquet")) == len(EventReader(done.events_path).new())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = typed(root, "export", "--prometheus", "--port", port)
    assert (
        refused.exit_code == 3
        and f"cannot listen at 127.0.0.1:{port}: Address already in use" in refused.stderr
    )


def test_watching_exports_beside_the_view(done: RunDir) -> None:
    watched = typed(done.path.parents[1], "watch", "one", "--plain", "--tensorboard")
    assert watched.exit_code == 0, watched.stderr
    assert "TensorBoard files in" in watched.stderr and "rl 7/9" in watched.stdout
    assert len(curves(done.path / "tensorboard")["rl"]["loss"]) == 7


def test_nothing_is_exported_by_nobody(tmp_path: Path) -> None:
    refused = typed(tmp_path, "train", "--stage", "rl", "--run", "x", "--detach", "--tensorboard")
    assert refused.exit_code == 2 and "streamrec-dist export x --tensorboard --follow" in refused.stderr
