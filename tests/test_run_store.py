"""The run's view of its data: its own copy, or prepared data elsewhere that must stay what it was."""

from __future__ import annotations

from pathlib import Path

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
