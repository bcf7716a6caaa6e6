"""Files that bring code: none of it runs, whatever kind of file claims to be ours or an encoder's."""

from __future__ import annotations

import base64
import importlib.util
import json
import pickle
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from streamrec_dist.arrays import load_arrays
from streamrec_dist.config_file import load_config
from streamrec_dist.data.files import load_dataset, save_dataset
from streamrec_dist.data.parquet import read_parquet
from streamrec_dist.data.readers import open_source
from streamrec_dist.errors import DataError, EnvironmentProblem, StreamRecError
from streamrec_dist.items.encoder import load_encoder
from streamrec_dist.items.encoder_weights import MINILM_PACKAGE
from tests.hostile import Yard, fresh_yard, small_dataset
from tests.raw_files import events_of
from tests.test_hostile_files import READERS, found

#: An extension type of another package that unpickles its values, as Ray Data's does.
PICKLED = "ray.data.arrow_pickled_object"


class Touch:
    """What unpickling it does is to create a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code of a file was run"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return fresh_yard(tmp_path_factory.mktemp("yard"))


def test_the_canary_sings(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pickle", "torch", "numpy", "yaml"])
def test_a_pickle_in_place_of_a_file_is_not_run(
    yard: Yard, canary: Path, tmp_path: Path, name: str, kind: str
) -> None:
    evil = tmp_path / "evil.npy"
    if kind == "pickle":
        evil.write_bytes(pickle.dumps(Touch(canary)))
    elif kind == "torch":
        torch.save({"w": Touch(canary)}, evil)
    elif kind == "numpy":
        np.save(evil, np.array([Touch(canary)], dtype=object), allow_pickle=True)
    else:
        evil.write_text(f"!!python/object/apply:os.mknod [{canary}]\n")
    path = found(yard, name)
    before = path.read_bytes()
    path.unlink()
    path.write_bytes(evil.read_bytes())
    try:
        READERS[name](yard.run)
    except StreamRecError:
        pass
    else:
        # A view shows what it cannot read as warnings, shards of unknown origin and summaries are made anew, and a
        # trace is only written behind.
        made_anew = ("items/embeddings/manifest.json", "summary.msgpack", "inherited.msgpack", "trace.json")
        assert name in ("events.jsonl", "inherited.jsonl", *made_anew)
    finally:
        path.unlink()
        path.write_bytes(before)


def test_a_pickle_inside_the_state_of_a_checkpoint_stays_bytes(yard: Yard, canary: Path) -> None:
    state = msgpack.packb({"epoch": msgpack.ExtType(42, pickle.dumps(Touch(canary)))})
    path = found(yard, "checkpoints/pretrain/step-00000009/state.msgpack")
    before = path.read_bytes()
    path.write_bytes(state)
    try:
        with pytest.raises(DataError, match="epoch: Input should be a valid integer"):
            READERS["checkpoints/pretrain/step-00000009/state.msgpack"](yard.run)
    finally:
        path.write_bytes(before)


class Pickled(pa.ExtensionType):
    """An extension type whose values and whose own parameters are pickles."""

    def __init__(self) -> None:
        super().__init__(pa.large_binary(), PICKLED)

    def __arrow_ext_serialize__(self) -> bytes:
        return EVIL["type"]

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Pickled:
        if serialized:
            pickle.loads(serialized)
        return cls()

    def __arrow_ext_scalar_class__(self) -> type:
        return PickledScalar


class PickledScalar(pa.ExtensionScalar):
    def as_py(self, **kwargs: object) -> object:
        return pickle.loads(self.value.as_py())


#: The bytes that Pickled writes as its parameters.
EVIL = {"type": b""}


@pytest.fixture
def column(canary: Path) -> Iterator[pa.Array]:
    """Three pickles as a column; the type is registered, as importing its package does."""
    with suppress(KeyError):  # it is there where a test before has imported ray.data
        pa.unregister_extension_type(PICKLED)
    EVIL["type"] = b""
    pa.register_extension_type(Pickled())
    EVIL["type"] = pickle.dumps(Touch(canary))
    yield pa.ExtensionArray.from_storage(
        Pickled(), pa.array([pickle.dumps(Touch(canary))] * 3, pa.large_binary())
    )
    pa.unregister_extension_type(PICKLED)


@pytest.mark.parametrize("offset", range(3))
def test_a_parquet_file_with_a_type_that_unpickles_is_refused_unread(
    tmp_path: Path, column: pa.Array, offset: int
) -> None:
    """Names of several lengths move the type's key to each place that base64 has."""
    folder = tmp_path / "set"
    folder.mkdir()
    plain = pa.array(["a", "b", "c"])
    evil = pa.table({"item": plain, "title": column, "x" * (offset + 1): plain})
    pq.write_table(evil, folder / "items.parquet")
    pq.write_table(pa.table({"user": ["u"] * 3, "item": plain}), folder / "interactions.parquet")
    (tmp_path / "canary").unlink(missing_ok=True)  # pyarrow itself reads the type back where it writes it
    with pytest.raises(DataError, match=r"items.parquet: has a column of an Arrow extension type"):
        events_of(open_source(folder, "parquet"))
    with pytest.raises(DataError, match=r"items.parquet: has a column of an Arrow extension type"):
        read_parquet(folder / "items.parquet")


def test_prepared_data_with_a_type_that_unpickles_are_refused_unread(
    tmp_path: Path, column: pa.Array
) -> None:
    save_dataset(small_dataset(), tmp_path / "data")
    (part,) = (tmp_path / "data").glob("files-*/users.arrow")
    manifest = tmp_path / "data" / "dataset.json"
    with pa.OSFile(str(part), "wb") as sink:
        table = pa.table({"user": column})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    body = json.loads(manifest.read_text())
    body["bytes"]["users"] = part.stat().st_size
    manifest.write_text(json.dumps(body))
    (tmp_path / "canary").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"users.arrow: has a column of an Arrow extension type"):
        load_dataset(tmp_path / "data")


def test_the_name_of_an_extension_type_as_text_is_no_extension_type(tmp_path: Path) -> None:
    words = ["ARROW:extension:name", base64.b64encode(b"ARROW:extension:name").decode()]
    pq.write_table(pa.table({"item": words}), tmp_path / "x.parquet", write_statistics=False)
    assert read_parquet(tmp_path / "x.parquet")["item"].to_pylist() == words


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("the [offline] extra, which holds the MiniLM weights, is not installed")
    source = Path(spec.submodule_search_locations[0]) / "model"
    return Path(shutil.copytree(source, tmp_path / "encoder", copy_function=_link))


def _link(source: str, target: str) -> None:
    """Weights are not copied; configurations are, since they are changed."""
    if source.endswith(".safetensors"):
        Path(target).symlink_to(source)
    else:
        shutil.copyfile(source, target)


MODULE = "from pathlib import Path\nPath({!r}).touch()\nclass Own: pass\n"


def test_an_encoder_with_parts_of_its_own_is_refused(encoder_folder: Path, canary: Path) -> None:
    (encoder_folder / "own.py").write_text(MODULE.format(str(canary)))
    modules = encoder_folder / "modules.json"
    for name in ("own.Own", "builtins.eval", 3):
        body = json.loads(modules.read_text())
        body[0]["type"] = name
        modules.write_text(json.dumps(body))
        with pytest.raises(EnvironmentProblem, match=r"modules.json: names the class .*is\s+never run here"):
            load_encoder(str(encoder_folder))
    modules.write_text("[")
    with pytest.raises(EnvironmentProblem, match=r"modules.json: not valid JSON"):
        load_encoder(str(encoder_folder))


def test_a_router_with_parts_of_its_own_is_refused(encoder_folder: Path) -> None:
    (encoder_folder / "router_config.json").write_text(json.dumps({"types": {"a": "os.path.Own"}}))
    with pytest.raises(EnvironmentProblem, match=r"router_config.json: names the class 'os.path.Own'"):
        load_encoder(str(encoder_folder))


@pytest.mark.parametrize("backend", ["sentence-transformers", "transformers"])
def test_code_that_a_configuration_of_transformers_names_is_not_run(
    encoder_folder: Path, canary: Path, backend: str
) -> None:
    (encoder_folder / "own.py").write_text(MODULE.format(str(canary)))
    path = encoder_folder / "config.json"
    body = json.loads(path.read_text())
    own = {"AutoConfig": "own.Own", "AutoModel": "own.Own"}
    path.write_text(json.dumps(body | {"auto_map": own, "model_type": "own-kind", "architectures": ["Own"]}))
    with pytest.raises(EnvironmentProblem, match="cannot be loaded by"):
        load_encoder(str(encoder_folder), backend=backend)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage", ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"]
)
def test_a_damaged_encoder_is_named(encoder_folder: Path, damage: str) -> None:
    path = encoder_folder / damage
    path.unlink()
    path.write_bytes(b"{\xff")
    with pytest.raises(EnvironmentProblem, match=r"items.encoder: .*encoder.* cannot be loaded by"):
        load_encoder(str(encoder_folder))


def test_a_pickle_beside_the_weights_is_not_taken_for_them(encoder_folder: Path, canary: Path) -> None:
    (encoder_folder / "model.safetensors").unlink()
    torch.save({"w": Touch(canary)}, encoder_folder / "pytorch_model.bin")
    with pytest.raises(EnvironmentProblem, match=r"no \*.safetensors"):
        load_encoder(str(encoder_folder))


def test_weights_in_torchs_own_format_are_no_arrays(tmp_path: Path, canary: Path) -> None:
    torch.save({"w": Touch(canary)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"w.safetensors: damaged or missing .*; train again"):
        load_arrays(tmp_path / "w.safetensors", "train again")


def test_a_configuration_that_asks_for_a_call_is_refused(tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"seed: !!python/object/apply:pathlib.Path.touch [{canary}]\n")
    with pytest.raises(StreamRecError, match=r"cluster.yaml:1: not valid YAML"):
        load_config(path)
