"""Files of a run that are well-formed and hold nonsense: values of other types, out of range, missing or too many."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save

from streamrec_dist.config_file import load_config, parse_config
from streamrec_dist.data.files import load_dataset, save_dataset
from streamrec_dist.errors import ConfigError, DataError
from streamrec_dist.events import EventReader
from streamrec_dist.rundir import RunDir
from streamrec_dist.stages.run_store import RunStore
from tests.hostile import (
    FUZZ,
    ODD,
    STATE,
    Yard,
    distorted,
    fresh_yard,
    loads_or_refuses,
    replaced,
    small_dataset,
)
from tests.test_hostile_files import READERS, found

JSON = ["data.json", "scaled.json", "stages/pretrain.json", "stages/tokenize.json", "dataset/dataset.json"]
JSON += ["items/embeddings/manifest.json", "events.jsonl", "inherited.jsonl"]
STATE_FILE = "checkpoints/pretrain/step-00000009/state.msgpack"
#: What msgpack can say of those.
PACKED = [value for value in ODD if not (isinstance(value, int) and abs(value) >= 2**63)]
PACKED += [b"\x80", msgpack.ExtType(5, b"cbuiltins\neval\n"), msgpack.Timestamp(0)]
ARRAYS = [name for name in READERS if name.endswith(".safetensors")]
ODD_ARRAYS = [
    np.zeros(0, np.float32),
    np.float32(1).reshape(()),
    np.full((60, 8), -1, np.int32),
    np.full((60, 8), 10**6, np.int32),
    np.ones((60, 8), np.int64),
    np.ones((60, 8), np.uint16),
    np.full((60, 8), np.nan, np.float32),
    np.full((26, 8), np.inf, np.float32),
    np.ones((60, 4), bool),
    np.ones((2, 3, 4), np.float16),
    np.ones(3, np.complex64),
    np.full(3, 1e300),
]


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return fresh_yard(tmp_path_factory.mktemp("yard"))


def check(yard: Yard, name: str, content: bytes) -> None:
    before = yard.around()
    replaced(found(yard, name), content, lambda: READERS[name](yard.run))
    assert yard.around() == before


@pytest.mark.parametrize("name", JSON)
@FUZZ
@given(data=st.data())
def test_odd_json_is_read_or_refused(yard: Yard, name: str, data: st.DataObject) -> None:
    texts = (
        found(yard, name).read_text().splitlines()
        if name.endswith(".jsonl")
        else [found(yard, name).read_text()]
    )
    trees = [data.draw(distorted(json.loads(text), ODD)) for text in texts]
    check(yard, name, "".join(json.dumps(tree) + "\n" for tree in trees).encode())


@FUZZ
@given(data=st.data())
def test_odd_configurations_are_read_or_refused(yard: Yard, data: st.DataObject) -> None:
    tree = yaml.safe_load(found(yard, "config.yaml").read_text())
    check(yard, "config.yaml", yaml.safe_dump(data.draw(distorted(tree, ODD))).encode())


@FUZZ
@given(data=st.data())
def test_odd_state_is_read_or_refused(yard: Yard, data: st.DataObject) -> None:
    check(yard, STATE_FILE, msgpack.packb(data.draw(distorted(STATE, PACKED))))


@pytest.mark.parametrize("name", ARRAYS)
@FUZZ
@given(data=st.data())
def test_odd_arrays_are_read_or_refused(yard: Yard, name: str, data: st.DataObject) -> None:
    arrays = data.draw(distorted(load_file(found(yard, name)), ODD_ARRAYS))
    check(yard, name, save({key: np.asarray(array, order="C") for key, array in arrays.items()}))


ODD_COLUMNS: list[Callable[[int], Any]] = [
    lambda rows: pa.array([-1] * rows, pa.int32()),
    lambda rows: pa.array([2**62] * rows),
    lambda rows: pa.array([1.5] * rows),
    lambda rows: pa.nulls(rows, pa.int32()),
    lambda rows: pa.nulls(rows, pa.large_string()),
    lambda rows: pa.array(["x"] * rows, pa.large_string()),
    lambda rows: pa.array(["x"] * rows).dictionary_encode(),
    lambda rows: pa.array([b"\xff\xfe"] * rows, pa.large_binary()),
    lambda rows: pa.LargeStringArray.from_buffers(
        rows, pa.py_buffer(np.arange(rows + 1).tobytes()), pa.py_buffer(b"\xff" * rows)
    ),
    lambda rows: pa.array([[1.0]] * rows),
    lambda rows: pa.array([[float("nan")] * 6] * rows, pa.list_(pa.float32(), 6)),
    lambda rows: pa.array([None] * rows, pa.list_(pa.float32(), 6)),
    lambda rows: pa.array([[]] * rows, pa.list_(pa.float32(), 0)),
    lambda rows: pa.array([{"a": 1}] * rows),
]


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(".parquet")])
@FUZZ
@given(data=st.data())
def test_odd_columns_are_read_or_refused(yard: Yard, name: str, data: st.DataObject) -> None:
    table = pq.read_table(found(yard, name))
    table = table.slice(0, data.draw(st.sampled_from([0, 1, len(table)])))
    for _ in range(data.draw(st.integers(0, 2))):
        column = data.draw(st.sampled_from(ODD_COLUMNS))(len(table))
        table = table.set_column(
            data.draw(st.integers(0, table.num_columns - 1)),
            data.draw(st.sampled_from([*table.column_names, "other"])),
            column,
        )
    metadata = dict(table.schema.metadata or {})
    for key in metadata:
        about = json.loads(metadata[key])
        odd = data.draw(distorted({"all": about}, ODD))
        metadata[key] = json.dumps(odd.get("all")).encode()
    path = yard.run / "odd.parquet"
    pq.write_table(table.replace_schema_metadata(metadata), path)
    content = path.read_bytes()
    path.unlink()
    check(yard, name, content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best": []}, "best: Input should be"),
        ({"epoch": -1}, "epoch: Input should be greater than or equal to 0"),
        ({"epoch": True}, "epoch: Input should be a valid integer"),
        ({"seconds": float("nan")}, "seconds: Input should be a finite number"),
        ({"best": {**STATE["best"], "metrics": {}}}, "no ndcg@10"),
    ],
)
def test_nonsense_in_a_checkpoint_is_named_with_the_way_on(yard: Yard, change: dict, message: str) -> None:
    path = found(yard, STATE_FILE)
    before = path.read_bytes()
    path.write_bytes(msgpack.packb(STATE | change))
    try:
        with pytest.raises(DataError, match=rf"step-00000009: damaged checkpoint.*{message}"):
            RunDir.open(yard.run).load_checkpoint("pretrain", 9)
    finally:
        path.write_bytes(before)


def test_weights_that_are_not_finite_are_named(yard: Yard) -> None:
    weights = {"w": np.array([1, np.nan], np.float32)}
    with pytest.raises(
        DataError, match=r"pretrain.safetensors: w has numbers that are not finite; train stage"
    ):
        path = found(yard, "stages/pretrain.safetensors")
        before = path.read_bytes()
        try:
            path.write_bytes(save(weights))
            RunDir.open(yard.run).load_weights("pretrain")
        finally:
            path.write_bytes(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: {"items": np.full_like(ds.items, 60)}, "an item is not one of 0 .. 59"),
        (lambda ds: {"items": np.full_like(ds.items, -1)}, "an item is not one of"),
        (lambda ds: {"train_end": ds.valid_end, "valid_end": ds.train_end}, "lie outside the sequence"),
        (lambda ds: {"valid_end": ds.valid_end + 1000}, "lie outside the sequence"),
        (lambda ds: {"train_end": np.full_like(ds.train_end, -1)}, "lie outside the sequence"),
        (lambda ds: {"times": np.arange(3)}, "interactions and 3 times"),
        (lambda ds: {"user_ids": ds.user_ids[:1], "train_end": ds.train_end[:1], "valid_end": ds.valid_end[:1]},
         "20 sequences and 1 users"),
    ],
)  # fmt: skip
def test_a_dataset_whose_hashes_fit_and_whose_numbers_do_not_is_named(
    tmp_path: Path, change: Callable, message: str
) -> None:
    ds = small_dataset()
    save_dataset(replace(ds, **change(ds)), tmp_path / "data")
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "data")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 10000 values"),
        ("a: &a {b: *a}", "more than 10000 values, or an alias that refers to itself"),
        ("seed: " + "[" * 5000, "nested too deep"),
        ("seed: !!python/object/apply:os.system [touch x]", "could not determine a constructor"),
        ("seed: !!python/name:os.system", "could not determine a constructor"),
        ("seed: 2001-13-45", "not what its tag or form says"),
        ("seed: !!int abc", "not what its tag or form says"),
        ("seed: " + "9" * 5000, "an integer of so many digits"),
        ("seed: 0x" + "f" * 9000, "an integer of so many digits"),
        ("data: {path: 'a\\0b', format: csv}", None),
        ('data: {path: "a\\0b", format: csv}', "data.path: 'a.x00b' cannot be a path"),
        ('data: {path: "\\ud800", format: csv}', "cannot be a path"),
    ],
)
def test_yaml_that_is_more_than_plain_values_is_refused(
    tmp_path: Path, text: str, message: str | None
) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    if message is None:
        load_config(path)
        return
    with pytest.raises(ConfigError, match=message) as refused:
        load_config(path)
    assert len(str(refused.value)) < 500
    assert [entry.name for entry in tmp_path.iterdir()] == ["cluster.yaml"]


def test_overrides_are_plain_values_too() -> None:
    with pytest.raises(ConfigError, match="the value is not valid YAML"):
        parse_config("{}", "f", ["seed=!!python/name:os.system"])


@pytest.mark.parametrize("line", ["[]", "3", '{"kind": 1}', '{"kind": "step", "t": 1e300}', "[" * 100_000])
def test_a_line_that_is_no_event_becomes_a_warning(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(line + "\n")
    (event,) = EventReader(path).new()
    assert event.kind == "warning" and len(event.message) < 200


def test_checkpoints_are_only_what_is_named_like_one(yard: Yard) -> None:
    folder = yard.run / "checkpoints" / "pretrain"
    for name in ("step-", "step-x", "step--0000001", "step-00000001.old", "step-1"):
        (folder / name).mkdir()
    try:
        assert RunDir.open(yard.run).checkpoint_steps("pretrain") == [9]
        assert RunStore(yard.run).newest_checkpoint("pretrain") is not None
    finally:
        for path in folder.iterdir():
            if path.name != "step-00000009":
                shutil.rmtree(path)


def test_a_loader_that_fails_otherwise_is_noticed() -> None:
    with pytest.raises(KeyError):
        loads_or_refuses(lambda: {}["a"])
