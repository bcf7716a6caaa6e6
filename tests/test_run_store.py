"""The run's view of its data: its own copy, or prepared data elsewhere that must stay what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamrec_dist.config_file import load_config
from streamrec_dist.data.prepare import prepare
from streamrec_dist.errors import DataError
from streamrec_dist.rundir import RunDir
from streamrec_dist.stages.run_store import RunStore
from tests.conftest import TINY


def test_prepared_data_must_stay_what_the_run_began_with(folder: Path) -> None:
    prepare(folder / "shop", "csv", folder / "prepared")
    (folder / "cluster.yaml").write_text(TINY.replace("path: shop", "path: prepared"), encoding="utf-8")
    run = RunDir.create(folder / "runs", "one", load_config(folder / "cluster.yaml"))
    first = RunStore(run.path).dataset()
    assert RunStore(run.path).dataset().content_hash == first.content_hash
    assert not run.dataset_path.exists(), "prepared data are used where they lie"

    interactions = folder / "shop" / "interactions.csv"
    interactions.write_text(interactions.read_text().replace("u0,i0", "u0,i59"), encoding="utf-8")
    prepare(folder / "shop", "csv", folder / "prepared")
    with pytest.raises(DataError, match="not what run one began with"):
        RunStore(run.path).dataset()


def test_altered_data_are_refused_before_anything_is_trained(folder: Path) -> None:
    prepare(folder / "shop", "csv", folder / "prepared")
    (folder / "cluster.yaml").write_text(TINY.replace("path: shop", "path: prepared"), encoding="utf-8")
    run = RunDir.create(folder / "runs", "one", load_config(folder / "cluster.yaml"))
    own = RunDir.create(
        folder / "runs", "own", load_config(folder / "cluster.yaml", [f"data.path={folder / 'shop'}"])
    )
    for store, place in ((RunStore(run.path), folder / "prepared"), (RunStore(own.path), own.dataset_path)):
        assert store.dataset() is store.dataset(), "read and verified once a process"
        (items,) = place.rglob("items.arrow")
        items.write_bytes(items.read_bytes().replace(b"lamp", b"lump"))
    for path in (run.path, own.path):
        with pytest.raises(DataError, match=r"items\.arrow: its content is not what dataset\.json recorded"):
            RunStore(path).dataset()


def test_given_ids_of_other_items_are_refused_before_anything_is_embedded(folder: Path) -> None:
    write = folder / "other.index.json"
    write.write_text('{"0": ["<a_1>", "<b_2>", "<c_3>", "<d_4>"]}', encoding="utf-8")
    config = load_config(folder / "cluster.yaml", [f"items.ids={write}"])
    run = RunDir.create(folder / "runs", "given", config)
    with pytest.raises(DataError, match=r"other\.index\.json: has no id for item 'i0' \(60 of 60"):
        RunStore(run.path).given_ids()


def test_embeddings_of_other_weights_are_made_anew(folder: Path) -> None:
    store = RunStore(RunDir.create(folder / "runs", "one", load_config(folder / "cluster.yaml")).path)
    (whole,) = store.missing_embeddings("weights a")
    store.write_embeddings(whole[0], np.ones((whole[1], 4), np.float32))
    assert store.missing_embeddings("weights a") == []
    assert store.missing_embeddings("weights b") == [whole]
