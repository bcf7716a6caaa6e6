"""Files of a run with damaged bytes: they load or are refused by an error of ours, and nothing else is touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.dashboard.plain import line
from cli.follow import last_words, resume_line
from cli.report.facts import gather
from cli.report.verdict import lines
from streamrec_dist.breakdown import breakdowns
from streamrec_dist.data.files import load_dataset
from streamrec_dist.errors import DataError
from streamrec_dist.items.report import check_report
from streamrec_dist.items.shards import EmbeddingShards
from streamrec_dist.ranks import load_ranks
from streamrec_dist.results import results_of
from streamrec_dist.rundir import RunDir
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.stages.tokenize import restore_tokenizer
from streamrec_dist.summary import RunSummary
from streamrec_dist.summary_file import inherited, summarised
from tests.drawn import scene_of, screen
from tests.hostile import FUZZ, Yard, config, damaged, files_of, fresh_yard, kinds, replaced


def shown(run: Path) -> None:
    """All that a view does with the events of a run."""
    directory = RunDir.open(run)
    state = RunSummary("demo")
    for event in directory.all_events():
        state.apply(event)
        line(event)
        screen(scene_of(state, 1e9))
    resume_line(directory), last_words(directory)
    facts = gather(directory)
    lines(facts.summary, facts.setting, facts.entries, {})


def summary(run: Path) -> None:
    state, _ = summarised(RunDir.open(run))
    screen(scene_of(state, 1e9))


def materials(run: Path) -> object:
    return RunStore(run).materials(config(), "pretrain")


def saved(run: Path) -> object:
    return RunDir.open(run).load_checkpoint("pretrain", 9)


def retrieved(run: Path) -> object:
    return RunStore(run).materials(config(), "retrieve")


def missing(run: Path) -> object:
    """Embeddings of anything else are dropped, so in a copy."""
    with TemporaryDirectory() as copy:
        shutil.copytree(run / "items" / "embeddings", copy, dirs_exist_ok=True)
        return EmbeddingShards(Path(copy)).begin({"items": 60})


def reported(run: Path) -> None:
    result = RunDir.open(run).stage_result("tokenize")
    assert result is not None
    check_report(result.metrics)


def judged(run: Path) -> None:
    """A report leaves out what it cannot read, and says so."""
    for note in results_of(RunDir.open(run)).notes:
        raise DataError(note)


#: The files of a run, by the name of each in its folder, and what reads them.
READERS: dict[str, Callable[[Path], Any]] = {
    "config.yaml": lambda run: RunDir.open(run).config(),
    "events.jsonl": shown,
    "inherited.jsonl": shown,
    "summary.msgpack": summary,
    "inherited.msgpack": lambda run: inherited(RunDir.open(run)),
    "trace.json": lambda run: RunStore(run).trace([]),
    "scaled.json": lambda run: RunDir.open(run).scaled(),
    "data.json": lambda run: RunDir.open(run).pin_dataset(Path("elsewhere"), "0" * 64),
    "stages/pretrain.json": lambda run: RunDir.open(run).last_model(),
    "stages/tokenize.json": reported,
    "stages/pretrain.safetensors": lambda run: RunDir.open(run).load_weights("pretrain"),
    "checkpoints/pretrain/step-00000009/state.msgpack": saved,
    "checkpoints/pretrain/step-00000009/arrays.safetensors": saved,
    "checkpoints/pretrain/step-00000009/SHA256SUMS": saved,
    "dataset/dataset.json": lambda run: load_dataset(run / "dataset"),
    "dataset/files-*/interactions.arrow": materials,
    "dataset/files-*/items.arrow": materials,
    "dataset/files-*/users.arrow": materials,
    "items/semantic_ids.parquet": materials,
    "items/neighbours.safetensors": materials,
    "items/evidence/held-out.safetensors": materials,
    "items/tokenizer.safetensors": lambda run: restore_tokenizer(
        RunStore(run).item_arrays("tokenizer"), config()
    ),
    "items/embeddings/manifest.json": missing,
    "items/embeddings/part-000000000.parquet": retrieved,
    "results/pretrain-valid.parquet": lambda run: breakdowns(
        load_ranks(run / "results" / "pretrain-valid.parquet")
    ),
    "results/pretrain-valid.json": judged,
}


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return fresh_yard(tmp_path_factory.mktemp("yard"))


def found(yard: Yard, name: str) -> Path:
    (path,) = yard.run.glob(name)
    return path


def test_every_file_of_a_run_is_among_those_that_are_damaged_here(yard: Yard) -> None:
    assert kinds(files_of(yard.run)) == kinds(READERS) and len(files_of(yard.run)) == len(READERS)
    for name, read in READERS.items():
        if name != "data.json":
            read(yard.run)


@pytest.mark.parametrize("name", READERS)
@FUZZ
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused(yard: Yard, name: str, data: st.DataObject) -> None:
    path, before = found(yard, name), yard.around()
    others = [found(yard, other).read_bytes()[:4096] for other in READERS]
    content = data.draw(damaged(path.read_bytes(), others))
    replaced(path, content, lambda: READERS[name](yard.run))
    assert yard.around() == before
