"""A small run whose files hostile tests damage, and the ways in which they do."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from streamrec_dist.config import Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.data.build import validate
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.demo import demo_catalogue
from streamrec_dist.data.files import save_dataset
from streamrec_dist.data.split import split_rows
from streamrec_dist.errors import StreamRecError
from streamrec_dist.events import Event, EventLog
from streamrec_dist.items.rqvae import RQVAE
from streamrec_dist.items.space import ItemSpace
from streamrec_dist.ranks import TargetRanks
from streamrec_dist.rundir import Checkpoint, RunDir, StageResult
from streamrec_dist.spans import Timeline
from streamrec_dist.stages.evaluate import judge, record
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.stages.tokenize import Tokenized, tokenizer_arrays, tokenizer_options
from streamrec_dist.summary_file import keep_inherited, keep_summary

#: The same examples every time; FUZZ=1000 draws other ones, and as many for each kind of file.
FUZZ = settings(
    deadline=None,
    database=None,
    derandomize="FUZZ" not in os.environ,
    max_examples=int(os.environ.get("FUZZ", "25")),
    suppress_health_check=list(HealthCheck),
)
SETTINGS = """
data: {path: elsewhere, format: csv, max_history: 8}
items: {levels: 3, codes: 8, neighbours: 8, behaviour: {dim: 4}}
model: {d_model: 8, layers: 1, heads: 1, d_head: 4, d_ff: 8, evidence: 4, precision: fp32}
stages: {tokenize: {latent: 4, hidden: [8]}, retrieve: {folds: 2}, rl: {negatives: 4}}
"""
STATE = {"epoch": 3, "seconds": 1.5, "best": {"step": 2, "misses": 1, "metrics": {"ndcg@10": 0.25}}}
REPORT: dict[str, Any] = {
    "items": 60,
    "levels": 3,
    "codes": 8,
    "used_codes": [4, 4, 4],
    "perplexity": [2.0, 2.0, 2.0],
    "surplus": 0,
    "surplus_share": 0.0,
    "largest_group": 1,
}


def small_dataset() -> Dataset:
    return validate(demo_catalogue(users=20, items=60))


def config() -> Config:
    return parse_config(SETTINGS, "settings")


def build_run(runs: Path) -> RunStore:
    """A run with a file of every kind, made by the code that makes them."""
    origin = RunDir.create(runs, "origin", config())
    EventLog(origin.events_path).append([Event("step", "retrieve", 3, 9, metrics={"loss": 1.5})])
    run = origin.branch("demo", config(), ["retrieve"])
    shutil.rmtree(origin.path)
    save_dataset(small_dataset(), run.dataset_path)
    store = RunStore(run.path)
    dataset, rng = store.dataset(), np.random.default_rng(0)
    keys = rng.permutation(8**3)[: dataset.n_items]
    codes = np.stack([keys // 64, keys // 8 % 8, keys % 8], axis=1).astype(np.int32)
    neighbours = rng.integers(0, dataset.n_items, (dataset.n_items, 8)).astype(np.int32)
    vectors = rng.normal(size=(dataset.n_items, 6)).astype(np.float32)
    space = ItemSpace.fit(vectors, None, False, 1.5, 4)
    model = RQVAE(6 + 4, tokenizer_options(config()))
    store.save_items(Tokenized(neighbours, codes, tokenizer_arrays(space, model), {}))
    for first, last in store.missing_embeddings("encoder"):
        store.write_embeddings(first, vectors[first:last])
    events = np.arange(len(dataset.items))
    items = np.tile(np.arange(4, dtype=np.int32), (len(events), 1))
    share = np.full((len(events), 4), 0.2, np.float16)
    store.save_evidence("held-out", {"event": events, "items": items, "share": share})
    metrics = {"loss": 1.5, "ndcg@10": 0.25, "stages": ["tokenize", "pretrain"], "by_step": [1, 2]}
    store.emit(
        *(Event(kind, "pretrain", 3, 9, "started", metrics=metrics) for kind in ("run", "stage", "step"))
    )
    store.emit(Event("eval", "pretrain", 3, metrics=metrics), Event("round", "sft", 3, metrics=metrics))
    keep_summary(run, store.summary, run.events_path.stat().st_size)
    keep_inherited(run)
    timeline = Timeline(traced=True)
    timeline.did("evaluate", 1.5)
    store.trace(timeline.take_trace())
    store.finish_stage(StageResult("pretrain", 1.5, 9, metrics))
    store.finish_stage(StageResult("tokenize", 1.5, 9, REPORT))
    weights = {"embed.weight": np.ones((26, 8), np.float32)}
    store.save_weights("pretrain", weights)
    arrays = {"model.w": weights["embed.weight"], "best.w": weights["embed.weight"]}
    store.save_checkpoint(Checkpoint("pretrain", 9, arrays, STATE))
    store.set_scaled({"rollout": 2})
    record(run, "pretrain-valid", ranks_of(dataset), ranks_of(dataset), None)
    run.pin_dataset(Path("elsewhere"), dataset.content_hash)
    return store


def ranks_of(dataset: Dataset) -> TargetRanks:
    rows = split_rows(dataset, "valid")
    about = {"run": "demo", "stage": "pretrain", "split": "valid", "masked": False}
    decoding = {"thoughts": "greedy", "samples": None, "beam": 20}
    return judge(dataset, rows, np.arange(len(rows)) % 9, decoding=decoding, **about)


#: Names of stages, results and parts, numbers of steps, and hashes in the paths of a run's files.
NAMES = re.compile(
    r"(?<=^stages/)[\w-]+|(?<=^results/)[\w-]+|(?<=^checkpoints/)[\w-]+/step-\d+|(?<=^items/evidence/)[\w-]+"
    r"|(?<=/part-)\d+|(?<=/files-)[\w*]+"
)


def kinds(names: Iterable[str]) -> set[str]:
    """Files of a run, as paths within it, with a star for what differs between files that the same code reads."""
    return {NAMES.sub("*", name) for name in names}


def files_of(run: Path) -> list[str]:
    """All files of a run, as paths within it."""
    return [str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()]


@dataclass(frozen=True)
class Yard:
    """A folder with the run, and around it what no load may change."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "demo"

    def around(self) -> list[str]:
        """All that lies outside the run's own folder."""
        return sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if not path.is_relative_to(self.run)
        )


def loads_or_refuses(load: Callable[[], object]) -> bool:
    """Whether `load` reads; False when it raises an error of ours with a message. Any other error passes through."""
    try:
        load()
    except StreamRecError as error:
        assert len(str(error)) > 20, "an error names the file and the fix"
        return False
    return True


def replaced(path: Path, content: bytes, load: Callable[[], object]) -> bool:
    """`loads_or_refuses` with other content in a file, which then gets its own back."""
    before = path.read_bytes()
    # A new file: what is mapped into memory elsewhere stays as it is.
    path.unlink()
    try:
        path.write_bytes(content)
        return loads_or_refuses(load)
    finally:
        path.unlink()
        path.write_bytes(before)


@st.composite
def damaged(draw: st.DrawFn, content: bytes, others: list[bytes]) -> bytes:
    """Content that was cut, flipped, grown, emptied, or is of another kind of file."""
    way = draw(st.sampled_from(["flip", "cut", "insert", "drop", "repeat", "other", "empty"]))
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    if way == "flip":
        found = bytearray(content)
        for at in [place, *draw(st.lists(st.integers(0, len(content) - 1), max_size=8))]:
            found[at] ^= draw(st.integers(1, 255))
        return bytes(found)
    if way == "cut":
        return content[:place]
    if way == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=16)) + content[place:]
    if way == "drop":
        return content[:place] + content[place + draw(st.integers(1, 64)) :]
    if way == "repeat":
        return content + content[place:]
    return draw(st.sampled_from(others)) if way == "other" else b""


#: Values of every type, among them those that are easily taken for granted not to come.
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 5000,
    "../../../etc/passwd",
    "\x1b[2J\x00",
    [],
    {},
    [[1]],
    {"a": {"b": 1}},
]


@st.composite
def distorted(draw: st.DrawFn, tree: Any, odd: list[Any]) -> Any:
    """A tree of dicts and lists in which one to three places have another value, or none."""
    found = _copied(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(found))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        if isinstance(holder, dict) and draw(st.booleans()) and draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = _copied(draw(st.sampled_from(odd)))
    return found


def _copied(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list | tuple) else tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def fresh_yard(folder: Path) -> Yard:
    build_run(folder / "runs")
    (folder / "private.txt").write_text("untouched")
    return Yard(folder)
