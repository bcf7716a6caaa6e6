"""The run directory as the stages see it: prepared data, items, checkpoints, events. Lives on the head node."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from streamrec_dist.arrays import load_arrays, save_arrays
from streamrec_dist.config import Config
from streamrec_dist.data.batches import Corpus
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.evidence import EvidenceTable
from streamrec_dist.data.files import load_dataset
from streamrec_dist.data.prepare import prepare
from streamrec_dist.data.row_counts import Cooccurrence
from streamrec_dist.data.split import split_rows, training_part, training_rows
from streamrec_dist.errors import DataError
from streamrec_dist.events import Event, EventLog
from streamrec_dist.items.foreign_ids import read_ids
from streamrec_dist.items.id_file import ItemIds, load_ids, save_ids
from streamrec_dist.items.shards import EmbeddingShards
from streamrec_dist.materials import Materials, laid_rows
from streamrec_dist.rl.ports import Weights
from streamrec_dist.rundir import Checkpoint, RunDir, StageResult, write_atomically
from streamrec_dist.stages.tokenize import Tokenized, check_given_ids
from streamrec_dist.summary import RunSummary
from streamrec_dist.summary_file import keep_summary, summarised
from streamrec_dist.trace_file import add_to_trace

#: Events kept while the disk has no room for them.
UNWRITTEN = 10_000
#: Of these, what is written at a time: so much is tried in vain.
TOGETHER = 100
#: Seconds between two times that the summary of a run is written.
SUMMARY_S = 15.0
#: A million parts of work; what shows traces takes no more.
TRACE_BYTES = 2**27


class RunStore:
    """Implements the Store port on a RunDir, and keeps the data set and the items of the run."""

    def __init__(self, path: Path):
        self.run = RunDir.open(path)
        self.events = EventLog(self.run.events_path)
        self.unwritten: deque[Event] = deque(maxlen=UNWRITTEN)
        self.no_room = ""
        self.summary_due = time.monotonic() + SUMMARY_S
        self.tracing = True
        self._dataset: Dataset | None = None
        self.shards = EmbeddingShards(self.run.items_path / "embeddings")

    def emit(self, *events: Event) -> None:
        """Write events to the run's file; those for which the disk has no room are written when it has."""
        # Of what was there before.
        summary, covered = self.summary, 0
        self.unwritten += (event.plain() for event in events)
        while part := list(islice(self.unwritten, TOGETHER)):
            try:
                covered = self.events.append(part)
            except OSError as error:
                self.no_room = str(error)
                return
            summary.apply_all(part)
            for _ in part:
                self.unwritten.popleft()
        if covered and (summary.ended or time.monotonic() > self.summary_due):
            self._keep_summary(covered)
        if self.no_room:
            message = f"events could not be written for some time ({self.no_room}); the newest {UNWRITTEN} were kept"
            self.no_room = ""
            self.emit(Event("warning", message=message))

    @cached_property
    def summary(self) -> RunSummary:
        """What the run's events come down to."""
        return summarised(self.run)[0]

    def _keep_summary(self, covered: int) -> None:
        # Readers do without it.
        with suppress(OSError):
            keep_summary(self.run, self.summary, covered)
        self.summary_due = time.monotonic() + SUMMARY_S

    def paused(self) -> bool:
        """Whether the run is, by its events."""
        return self.summary.paused

    def trace(self, events: list[dict[str, Any]]) -> None:
        """Add events to the run's trace, up to a size, and as long as the disk has room; then say that it ends."""
        if not self.tracing:
            return
        try:
            full = add_to_trace(self.run.trace_path, events) > TRACE_BYTES
            why = f"it has {TRACE_BYTES >> 20} MiB" if full else ""
        except OSError as error:
            why = str(error)
        if why:
            self.tracing = False
            self.emit(Event("warning", message=f"nothing more is added to the trace: {why}"))

    # data and items

    def dataset(self) -> Dataset:
        """The run's own prepared copy of the data, made on the first call.

        The first call of a process reads all of it to verify its content. Raises DataError for data that are
        damaged, or not those that the run began with.
        """
        if self._dataset is None:
            self._dataset = self._open_dataset()
        return self._dataset

    def _open_dataset(self) -> Dataset:
        path = self.run.dataset_path
        if (path / "dataset.json").is_file():
            return load_dataset(path)
        config = self.run.config()
        source = Path(config.data.path) if config.data.path else None
        if source and (source / "dataset.json").is_file():
            # Made by `data prepare`: used where it is, as long as it is what the run began with.
            dataset = load_dataset(source)
            self.run.pin_dataset(source, dataset.content_hash)
            return dataset
        return prepare(source, config.data.format, path, config.seed)

    def missing_embeddings(self, encoder: str) -> list[tuple[int, int]]:
        """Ranges of items whose texts are not embedded yet by `encoder`, the SHA-256 of its weights."""
        dataset, items = self.dataset(), self.run.config().items
        made_of = {
            "encoder": encoder,
            "backend": items.backend,
            "data": dataset.content_hash,
            "items": dataset.n_items,
        }
        return self.shards.begin(made_of)

    def write_embeddings(self, first: int, vectors: np.ndarray) -> None:
        self.shards.write(first, vectors)

    def embeddings(self) -> np.ndarray:
        """Text embeddings of all items, float32 [n, dim]."""
        return self.shards.load(self.dataset().n_items)

    def training_part(self) -> tuple[np.ndarray, np.ndarray]:
        """What may be learnt from of all sequences: items int32, offsets int64 [users + 1]."""
        return training_part(self.dataset())

    def given_ids(self) -> np.ndarray | None:
        """The ids of items.ids, int32 [n, m], which may collide; None where the run makes its own.

        Raises DataError for a file that cannot be used or has ids of other items.
        """
        config = self.run.config()
        if config.items.ids is None:
            return None
        given = read_ids(config.items.ids).of(self.dataset().item_ids)
        check_given_ids(given, config)
        return given

    def save_items(self, tokenized: Tokenized) -> None:
        folder = self.run.items_path
        folder.mkdir(parents=True, exist_ok=True)
        self._save_arrays("neighbours", {"neighbours": tokenized.neighbours})
        self._save_arrays("tokenizer", tokenized.tokenizer)
        items = self.dataset().item_ids
        save_ids(folder / "semantic_ids.parquet", items, tokenized.codes, self.run.config().items.codes)

    def ids(self) -> ItemIds:
        """The run's semantic ids."""
        return load_ids(self.run.items_path / "semantic_ids.parquet")

    def _save_arrays(self, name: str, arrays: Weights) -> None:
        save_arrays(self.run.items_path / f"{name}.safetensors", arrays)

    def neighbours(self, n_items: int) -> np.ndarray:
        """The text neighbours of so many items, int32 [n, k], nearest first. Raises DataError when damaged."""
        found = self.item_arrays("neighbours").get("neighbours")
        if found is None or found.dtype != np.int32 or found.ndim != 2 or len(found) != n_items:
            raise DataError(f"the text neighbours are not of these {n_items} items; run stage tokenize again")
        if not 0 <= found.min(initial=0) <= found.max(initial=0) < n_items:
            raise DataError(f"a text neighbour is not one of these {n_items} items; run stage tokenize again")
        return found

    def item_arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of the `tokenizer`, `neighbours`, or a part of the evidence. Raises DataError when damaged."""
        path = self.run.items_path / f"{name}.safetensors"
        return load_arrays(path, "run stage tokenize again")

    def materials(self, config: Config, stage: str) -> Materials:
        """What the roles work with in a stage or baseline.

        Raises DataError when the ids do not fit the data set or `config`, or when evidence is missing.
        """
        config, dataset = config.of_stage(stage), self.dataset()
        ids = self.ids()
        codes_per_level = ids.codes_per_level or config.items.codes
        corpus = Corpus.of(dataset, ids.of(dataset.item_ids), codes_per_level, config.data.max_history)
        rows = training_rows(dataset)
        if len(rows) == 0:
            raise DataError("no user has two training events: there is nothing left to train on")
        if len(split_rows(corpus, "valid")) == 0:
            raise DataError(
                f"no user has a validation target under the split {dataset.recipe.get('split')}; prepare the data "
                "with another split"
            )
        neighbours = self.neighbours(corpus.n_items)
        evidence = self._evidence(corpus) if config.model.evidence and stage != "retrieve" else None
        rows, kept = laid_rows(config, corpus, rows, evidence)
        materials = Materials(config, corpus, neighbours, rows, evidence=evidence, kept=kept)
        if stage == "retrieve":
            return replace(materials, counts=Cooccurrence.of(corpus), texts=self.embeddings())
        return materials

    def _evidence(self, corpus: Corpus) -> EvidenceTable:
        parts = [self.item_arrays(f"evidence/{name}") for name in self.evidence_parts()]
        if not parts:
            raise DataError(
                f"run {self.run.name} has no evidence, which model.evidence asks for; run stage retrieve first"
            )
        EvidenceTable.check_parts(parts, len(corpus.items), corpus.n_items)
        return EvidenceTable.joined(len(corpus.items), parts)

    def save_evidence(self, name: str, part: Weights) -> None:
        """A part of an EvidenceTable (`EvidenceTable.joined`)."""
        (self.run.items_path / "evidence").mkdir(parents=True, exist_ok=True)
        self._save_arrays(f"evidence/{name}", part)

    def evidence_parts(self) -> list[str]:
        """The names of the parts there are."""
        return sorted(path.stem for path in (self.run.items_path / "evidence").glob("[!.]*.safetensors"))

    # checkpoints and results

    def write_log(self, name: str, text: str) -> Path:
        """A text file in the run directory, for a person to read."""
        path = self.run.path / name
        write_atomically(path, text)
        return path

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.run.save_checkpoint(checkpoint)

    def newest_checkpoint(self, stage: str) -> Checkpoint | None:
        """The newest that can be read; one that cannot is put aside, with a warning in the events.

        None where there is none (left): the stage begins anew.
        """
        steps = self.run.checkpoint_steps(stage)
        while steps:
            step = steps.pop()
            try:
                return self.run.load_checkpoint(stage, step)
            except DataError as error:
                aside = self.run.set_aside(stage, step)
                then = "the one before is taken" if steps else "as there is no other, the stage begins anew"
                message = f"{error}; it is kept as {aside}, and {then}"
                self.emit(Event("warning", stage, message=message))
        return None

    def checkpoint_step(self, stage: str) -> int:
        """The step of the newest checkpoint, -1 without one."""
        return max(self.run.checkpoint_steps(stage), default=-1)

    def set_scaled(self, scaled: Mapping[str, int]) -> None:
        self.run.set_scaled(scaled)

    def scaled(self) -> dict[str, int]:
        return self.run.scaled()

    def save_weights(self, stage: str, weights: Weights) -> None:
        self.run.save_weights(stage, dict(weights))

    def load_weights(self, stage: str) -> Weights:
        return self.run.load_weights(stage)

    def finish_stage(self, result: StageResult) -> None:
        self.run.finish_stage(result)

    def stage_result(self, stage: str) -> StageResult | None:
        return self.run.stage_result(stage)
