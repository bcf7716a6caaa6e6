"""What exactly is refused, or tamed, in files that only a person or a program with bad intent would write."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file

from cli.follow import resume_line
from streamrec_dist.arrays import load_arrays
from streamrec_dist.config import Config
from streamrec_dist.data.evidence import EvidenceTable
from streamrec_dist.data.files import load_dataset, save_dataset
from streamrec_dist.data.raw import shown
from streamrec_dist.data.readers import open_source
from streamrec_dist.data.strings import Strings
from streamrec_dist.errors import DataError
from streamrec_dist.events import Event
from streamrec_dist.items.foreign_ids import read_ids
from streamrec_dist.items.id_file import load_ids
from streamrec_dist.json_file import read_json
from streamrec_dist.model.weights import export_weights, import_weights
from streamrec_dist.ranks import load_ranks, save_ranks
from streamrec_dist.rundir import Checkpoint, RunDir, StageResult
from streamrec_dist.stages.epochs import TrainingByEpochs
from streamrec_dist.stages.patience import Best
from streamrec_dist.training.optimiser import Optimiser
from tests.hostile import config, ranks_of, small_dataset
from tests.raw_files import events_of, items_of


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"stage": "rl", "seconds": 1.0, "steps": "9"}', "steps: Input should be a valid integer"),
        ('{"stage": "rl", "seconds": NaN, "steps": 9}', "seconds: Input should be"),
        ('{"stage": "rl", "steps": 9}', "seconds: Field required"),
        ("[" * 1000, "Invalid JSON: recursion limit exceeded"),
        ("", "Invalid JSON"),
        (None, "is missing"),
    ],
)
def test_json_is_of_its_type_to_the_letter(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=rf"x\.json.*{message}.*; do it again"):
        read_json(path, StageResult, "do it again")


@pytest.mark.parametrize(("kind", "size"), [("BF16", 4), ("F8_E4M3", 2), ("C64", 16), ("F4", 1)])
def test_arrays_of_types_that_we_do_not_write_are_refused(tmp_path: Path, kind: str, size: int) -> None:
    header = json.dumps({"w": {"dtype": kind, "shape": [2], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    with pytest.raises(DataError, match=r"w\.safetensors: .*we do not write.*; train again"):
        load_arrays(path, "train again")


def test_arrays_of_the_types_that_we_write_are_read(tmp_path: Path) -> None:
    kinds = (np.float32, np.float16, np.float64, np.int32, np.int64, np.uint8, np.bool_)
    arrays = {np.dtype(kind).name: np.ones(2, kind) for kind in kinds}
    save_file(arrays, tmp_path / "w.safetensors")
    assert load_arrays(tmp_path / "w.safetensors", "").keys() == arrays.keys()


def test_numbers_of_events_that_nothing_can_show_are_left_out() -> None:
    line = json.dumps(
        {"kind": "step", "metrics": {"loss": 10**400, "kl": float("nan"), "lr": 0.5, "n": [1, 2**70]}}
    )
    assert Event.from_json(line).metrics == {"loss": None, "kl": None, "lr": 0.5, "n": [1, None]}


@pytest.mark.parametrize("stages", ["rl", {"a": 1}, [], 3, None])
def test_a_run_of_which_nobody_says_what_it_was_for_goes_on_through_all_stages(
    tmp_path: Path, stages: object
) -> None:
    run = RunDir.create(tmp_path, "demo", config())
    run.events_path.write_text(json.dumps({"kind": "run", "metrics": {"stages": stages}}) + "\n")
    assert resume_line(run) == "streamrec-dist train --stage all --resume --run demo"


def test_texts_that_are_no_texts_are_refused_though_their_hash_fits(tmp_path: Path) -> None:
    ds = small_dataset()
    offsets = pa.py_buffer(np.arange(ds.users + 1).tobytes())
    broken = pa.LargeStringArray.from_buffers(ds.users, offsets, pa.py_buffer(b"\xff" * ds.users))
    save_dataset(replace(ds, user_ids=Strings(broken)), tmp_path / "data")
    with pytest.raises(DataError, match=r"users\.arrow: damaged Arrow file \(.*UTF8"):
        load_dataset(tmp_path / "data")


def test_names_of_columns_that_are_no_text_are_refused(tmp_path: Path) -> None:
    save_dataset(small_dataset(), tmp_path / "data")
    (path,) = (tmp_path / "data").glob("files-*/users.arrow")
    content = path.read_bytes().replace(b"train_end", b"train\xff\xfe\xfd\xfc")
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"users\.arrow: "):
        load_dataset(tmp_path / "data")


BROKEN = pa.LargeStringArray.from_buffers(2, pa.py_buffer(np.arange(3).tobytes()), pa.py_buffer(b"\xff\xff"))


def test_ids_of_items_that_are_no_text_are_refused(tmp_path: Path) -> None:
    table = pa.table({"item": BROKEN, "c1": pa.array([0, 1], pa.int32())})
    pq.write_table(table.replace_schema_metadata({b"codes_per_level": b"2"}), tmp_path / "ids.parquet")
    with pytest.raises(DataError, match=r"ids\.parquet: not a readable Parquet file \(.*UTF8"):
        load_ids(tmp_path / "ids.parquet")


@pytest.mark.parametrize("titles", [BROKEN, pa.array([1, 2**31 - 1], pa.int32()).cast(pa.date32())])
def test_titles_that_python_has_no_value_for_are_refused(tmp_path: Path, titles: pa.Array) -> None:
    pq.write_table(pa.table({"item": ["a", "b"], "title": titles}), tmp_path / "items.parquet")
    pq.write_table(pa.table({"user": ["u"], "item": ["a"]}), tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match=r"items\.parquet: a value that cannot be read"):
        items_of(open_source(tmp_path, "parquet"))


def test_best_weights_without_their_evaluation_are_refused() -> None:
    state, arrays = {"step": 3, "misses": 0, "metrics": {"ndcg@10": 0.5}}, {"best.w": np.ones(1)}
    best = Best(1)
    best.restore(arrays, state)
    for wrong in (({}, state), (arrays, state | {"step": -1})):
        with pytest.raises(DataError, match="no best weights, or no evaluation of them"):
            best.restore(*wrong)


def test_weights_and_moments_that_no_training_leaves_are_refused() -> None:
    model = torch.nn.Linear(2, 1)
    weights = export_weights(model)
    with pytest.raises(DataError, match="weight holds int64, weights are floats"):
        import_weights(model, weights | {"weight": np.ones((1, 2), np.int64)})
    optimiser = Optimiser(model.named_parameters(), 0.0, 1.0)
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step(0.1)
    moments = optimiser.export()
    optimiser.restore(moments)
    for name in ("exp_avg_sq.weight", "step.weight"):
        with pytest.raises(DataError, match=f"negative {name.partition('.')[0]} for weight"):
            optimiser.restore(moments | {name: -1 - moments[name]})


def test_halves_of_surrogate_pairs_are_refused_where_ids_are_read(tmp_path: Path) -> None:
    (tmp_path / "D.inter.json").write_text('{"\\ud800": [0, 0, 0]}')
    (tmp_path / "D.item.json").write_text('{"0": {"title": "A"}}')
    with pytest.raises(DataError, match="half of a surrogate pair"):
        events_of(open_source(tmp_path, "lcrec"))
    (tmp_path / "x.index.json").write_text('{"\\ud800": ["<a_1>"]}')
    with pytest.raises(DataError, match=r"x\.index\.json: item .*half of a surrogate pair"):
        read_ids(tmp_path / "x.index.json")


@pytest.mark.parametrize("said", [b"9" * 5000, b"1000001", b"0", b"-1", b""])
def test_codes_that_no_level_can_have_are_refused(tmp_path: Path, said: bytes) -> None:
    table = pa.table({"item": ["a", "b"], "c1": pa.array([0, 1], pa.int32())})
    pq.write_table(table.replace_schema_metadata({b"codes_per_level": said}), tmp_path / "ids.parquet")
    with pytest.raises(DataError, match=r"ids\.parquet: its metadata has no codes_per_level"):
        load_ids(tmp_path / "ids.parquet")


def test_values_that_python_cannot_write_are_shown_all_the_same() -> None:
    nested: list[object] = []
    for _ in range(10_000):
        nested = [nested]
    assert shown(nested) == "list ..." and shown(16**5000) == "int ..."


@pytest.mark.parametrize(
    ("name", "value"),
    [("items", 60), ("items", -1), ("event", 9), ("event", -1), ("share", 2), ("share", -1)],
)
def test_evidence_outside_of_its_ranges_is_refused(name: str, value: int) -> None:
    part = {"event": np.arange(3), "items": np.zeros((3, 2), np.int32), "share": np.zeros((3, 2), np.float16)}
    EvidenceTable.check_parts([part], 9, 60)
    with pytest.raises(DataError, match="not of these 9 events and 60 items; run stage retrieve again"):
        EvidenceTable.check_parts([part, part | {name: np.full_like(part[name], value)}], 9, 60)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.append_column("user", table["user"]), "expected a column user"),
        (
            lambda table: table.set_column(3, "rank", pa.array([-1] * len(table), pa.int32())),
            "a number below 0",
        ),
        (lambda table: table.slice(0, 0), "holds no targets"),
        (
            lambda table: about(table, decoding={"thoughts": "greedy", "samples": None}),
            r"decoding\.beam: Field required",
        ),
        (lambda table: about(table, popularity_quartiles=[1, 2]), "popularity_quartiles: List should have"),
        (
            lambda table: table.replace_schema_metadata({b"streamrec_dist": b"[" * 500}),
            "recursion limit exceeded",
        ),
    ],
)
def test_ranks_that_no_evaluation_writes_are_refused(tmp_path: Path, change: Callable, message: str) -> None:
    path = tmp_path / "ranks.parquet"
    save_ranks(path, ranks_of(small_dataset()))
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(DataError, match=rf"ranks\.parquet: .*{message}"):
        load_ranks(path)


def about(table: pa.Table, **said: object) -> pa.Table:
    body = json.loads(table.schema.metadata[b"streamrec_dist"])
    return table.replace_schema_metadata({b"streamrec_dist": json.dumps(body | said).encode()})


@pytest.mark.parametrize(
    ("step", "epoch", "message"),
    [(31, 3, "at step 31 is of epoch 3, of 10 steps each"), (300, 30, "never evaluated")],
)
def test_a_checkpoint_that_training_by_epochs_cannot_go_on_from_is_named(
    step: int, epoch: int, message: str
) -> None:
    state = {"epoch": epoch, "seconds": 1.0, "best": {"step": -1, "misses": 0, "metrics": {}}}
    store = SimpleNamespace(newest_checkpoint=lambda stage: Checkpoint(stage, step, {}, state))
    learners = SimpleNamespace(begin=lambda *arguments, **more: None)
    context: Any = SimpleNamespace(config=Config(), store=store, learners=learners)
    training = TrainingByEpochs(context, "pretrain", 10 * context.config.stages.pretrain.batch)
    assert context.config.stages.pretrain.epochs == 30
    with pytest.raises(DataError, match=message):
        training.run("pretrain")
