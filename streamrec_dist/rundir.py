"""The directory of a run: config, events, items, checkpoints, stage results.

runs/NAME/config.yaml                       the resolved configuration
          events.jsonl                      what happened
          summary.msgpack                   what that comes down to, and how much of it (summary_file.py)
          trace.json                        what every process did when, of a run that is traced (spans.py)
          inherited.jsonl, .msgpack         what happened in the stages that it has from another run, its summary
          data.json                         the content hash of prepared data that lies elsewhere
          dataset/                          the prepared data, with its content hash
          items/                            embeddings, neighbours, semantic ids
          checkpoints/STAGE/step-N/         weights (the best too), optimizer and state; the last two
          stages/STAGE.json                 the result of a finished stage, or of a baseline
          results/NAME.json, NAME.parquet   evaluations: measures, and the rank of every target
          scaled.json                       replicas that were asked for while it went
          report/index.html, *.png          what `report` made of all this
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from safetensors import SafetensorError

from streamrec_dist.arrays import load_arrays, save_arrays
from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.checkpoint_state import Count, Seconds, check_state
from streamrec_dist.config import Config
from streamrec_dist.config_file import KeyPath, differing_keys, dump_config, load_config
from streamrec_dist.data.checksums import digest
from streamrec_dist.errors import DataError, UsageError
from streamrec_dist.events import Event, EventReader
from streamrec_dist.json_file import read_json

STAGES = ("tokenize", "retrieve", "pretrain", "sft", "rl")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Checksums of a checkpoint's other files, as `sha256sum -c` reads them.
SUMS = "SHA256SUMS"
STEP = re.compile(r"step-(\d{8,18})")
#: What a run has before its first stage.
DATA = "data"
#: Keys that may change between parts of a run: where it runs, not what it learns.
CHANGEABLE = ("cluster.", "actors.", "learners.")
#: A run's file names every key there was when it began. What one that it lacks stood for, if not for its default.
BEFORE: dict[KeyPath, str | float] = {
    ("items", "behaviour", "weight"): 0,
    ("model", "evidence"): 0,
    ("model", "softmax"): "codes",
    ("stages", "retrieve", "reranked"): 0,
    ("stages", "sft", "annotated_items"): 1,
    ("stages", "rl", "rows"): "all",
}


@dataclass(frozen=True)
class StageResult:
    """What a finished stage left behind."""

    stage: str
    seconds: Seconds
    steps: Count
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """Arrays and plain state of one moment of one stage."""

    stage: str
    step: int
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


@dataclass(frozen=True)
class Pin:
    """What data.json says."""

    path: str
    content_hash: str


def _sums(folder: Path) -> str:
    names = ("arrays.safetensors", "state.msgpack")
    return "".join(f"{digest(folder / name, 'sha256')}  {name}\n" for name in names)


class RunDir:
    """Reads and writes one run. The only code that knows the layout."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.msgpack"

    @property
    def trace_path(self) -> Path:
        return self.path / "trace.json"

    @property
    def inherited_path(self) -> Path:
        return self.path / "inherited.jsonl"

    @property
    def inherited_summary_path(self) -> Path:
        return self.path / "inherited.msgpack"

    @property
    def report_path(self) -> Path:
        return self.path / "report"

    @property
    def dataset_path(self) -> Path:
        return self.path / "dataset"

    @property
    def items_path(self) -> Path:
        return self.path / "items"

    @staticmethod
    def create(runs: Path, name: str, config: Config) -> RunDir:
        """Make a new run directory. Raises UsageError for a bad name or one that is taken."""
        check_name(name)
        path = runs / name
        if path.exists():
            raise UsageError(
                f"run {name} exists already; continue it with --resume, or choose another --run NAME"
            )
        # The config makes it a run: until it is there, a killed start leaves only a hidden folder.
        unfinished = runs / f".{name}.{os.getpid()}"
        unfinished.mkdir(parents=True)
        (unfinished / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        os.rename(unfinished, path)
        return RunDir(path)

    @staticmethod
    def find(runs: Path, name: str) -> RunDir:
        """The run of that name, as a user gives it. Raises UsageError when there is none, or it can be no name."""
        check_name(name)
        return RunDir.open(runs / name)

    @staticmethod
    def open(path: Path) -> RunDir:
        """An existing run. Raises UsageError when there is none, DataError when a link leads out of it."""
        if not run_exists(path.parent, path.name):
            names = [run.name for run in list_runs(path.parent)]
            known = f"there are: {', '.join(names)}" if names else "there are no runs yet"
            raise UsageError(f"no run {path.name} in {path.parent}; {known}")
        _check_links(path)
        return RunDir(path)

    def branch(self, name: str, config: Config, stages: Sequence[str]) -> RunDir:
        """A new run beside this one that has its data and its finished `stages`, and nothing of the others.

        Files are linked, not copied: no file of a finished stage is ever written in place. Raises UsageError for a
        name that is bad or taken.
        """
        run = RunDir.create(self.path.parent, name, config)
        try:
            for path in [path for path in self.path.rglob("*") if path.is_file()]:
                inside = path.relative_to(self.path)
                if _stage_of(inside) in (DATA, *stages):
                    (run.path / inside).parent.mkdir(parents=True, exist_ok=True)
                    os.link(path, run.path / inside)
            with run.inherited_path.open("w", encoding="utf-8") as file:
                for part in self.event_parts():
                    file.writelines(f"{event.to_json()}\n" for event in part if event.stage in stages)
        except BaseException:
            shutil.rmtree(run.path)
            raise
        return run

    def all_events(self) -> list[Event]:
        """Of the stages that it has from other runs, and its own."""
        return [event for part in self.event_parts() for event in part]

    def event_parts(self) -> Iterator[list[Event]]:
        """The same, a part of them at a time."""
        for path in (self.inherited_path, self.events_path):
            yield from EventReader(path).parts()

    def started(self) -> None:
        """It is the run that was started last from now on (`list_runs`)."""
        os.utime(self.path / "config.yaml")

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """The run's configuration, with `key.sub=value` on top of it. Raises ConfigError."""
        return load_config(self.path / "config.yaml", overrides, BEFORE)

    def check_same_config(self, config: Config) -> None:
        """Raise UsageError naming the keys in which this run was started differently."""
        differing = [key for key in differing_keys(self.config(), config) if not key.startswith(CHANGEABLE)]
        if differing:
            raise UsageError(
                f"run {self.name} was started with another configuration; "
                "give it back, or choose another --run NAME:\n  " + "\n  ".join(differing)
            )

    # stage results

    def stage_result(self, stage: str) -> StageResult | None:
        """Raises DataError when its file is damaged."""
        path = self.path / "stages" / f"{stage}.json"
        if not path.is_file():
            return None
        return read_json(path, StageResult, "remove it to have the stage done again")

    def finished_stages(self) -> list[str]:
        return [stage for stage in STAGES if self.stage_result(stage)]

    def finished_baselines(self) -> list[str]:
        return [name for name in TRAINED if self.stage_result(name)]

    def finished(self) -> list[str]:
        """Finished stages, and the baselines beside them."""
        return self.finished_stages() + self.finished_baselines()

    def last_model(self) -> str:
        """The last finished stage that left a recommender. Raises UsageError when there is none."""
        trained = [stage for stage in self.finished_stages() if stage not in ("tokenize", "retrieve")]
        if not trained:
            raise UsageError(
                f"run {self.name} has no trained model yet; "
                f"continue it with: streamrec-dist train --stage all --resume --run {self.name}"
            )
        return trained[-1]

    # the data set, where it lies outside the run

    def pin_dataset(self, source: Path, content_hash: str) -> None:
        """Note which data this run works on. Raises DataError when it began with other content."""
        path = self.path / "data.json"
        if not path.is_file():
            write_atomically(path, json.dumps(asdict(Pin(str(source), content_hash)), indent=1))
            return
        pinned = read_json(path, Pin, "start another run").content_hash
        if pinned != content_hash:
            raise DataError(
                f"{source}: its content is not what run {self.name} began with (content hash {content_hash[:12]}, "
                f"then {pinned[:12]}); prepare the same data again, or start another run"
            )

    def finish_stage(self, result: StageResult) -> None:
        write_atomically(self.path / "stages" / f"{result.stage}.json", json.dumps(asdict(result), indent=1))

    # checkpoints

    def save_checkpoint(self, checkpoint: Checkpoint, keep: int = 2) -> Path:
        """Write a checkpoint under a temporary name, rename it, and drop all but the last `keep`."""
        folder = self.path / "checkpoints" / checkpoint.stage
        target = folder / f"step-{checkpoint.step:08d}"
        unfinished = folder / f".{target.name}.{os.getpid()}"
        for left in folder.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            save_arrays(unfinished / "arrays.safetensors", checkpoint.arrays)
            (unfinished / "state.msgpack").write_bytes(msgpack.packb(checkpoint.state))
            (unfinished / SUMS).write_text(_sums(unfinished), encoding="utf-8")
        except (OSError, SafetensorError):
            # On a full disk the events that say so need the room.
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        shutil.rmtree(target, ignore_errors=True)
        os.rename(unfinished, target)
        for step in self.checkpoint_steps(checkpoint.stage)[:-keep]:
            shutil.rmtree(folder / f"step-{step:08d}")
        return target

    def checkpoint_steps(self, stage: str) -> list[int]:
        folder = self.path / "checkpoints" / stage
        found = (STEP.fullmatch(path.name) for path in folder.glob("step-*"))
        return sorted(int(step[1]) for step in found if step)

    def load_checkpoint(self, stage: str, step: int) -> Checkpoint:
        """Raises DataError naming the file when it is missing, truncated or not what it should be."""
        folder = self.path / "checkpoints" / stage / f"step-{step:08d}"
        arrays, state, sums = folder / "arrays.safetensors", folder / "state.msgpack", folder / SUMS
        for file in (arrays, state, sums):
            if not file.is_file():
                raise DataError(f"{file}: missing; the checkpoint is not complete")
        try:
            found = msgpack.unpackb(state.read_bytes())
            check_state(stage, found)
            checkpoint = Checkpoint(stage, step, load_arrays(arrays), found)
            if sums.read_text(encoding="utf-8") != _sums(folder):
                raise DataError("these are not the bytes that were written")
            return checkpoint
        except (DataError, OSError, msgpack.UnpackException, ValueError) as error:
            raise DataError(f"{folder}: damaged checkpoint ({error})") from None

    def set_aside(self, stage: str, step: int) -> Path:
        """Rename a damaged checkpoint, so that it counts no more; its new path."""
        folder = self.path / "checkpoints" / stage
        aside = folder / f"damaged-{step:08d}"
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder / f"step-{step:08d}", aside)
        return aside

    # replicas asked for while the run goes

    def set_scaled(self, scaled: Mapping[str, int]) -> None:
        write_atomically(self.path / "scaled.json", json.dumps(dict(scaled)))

    def scaled(self) -> dict[str, int]:
        path = self.path / "scaled.json"
        return read_json(path, dict[str, Count], "remove it") if path.is_file() else {}

    # weights of a finished stage

    def save_weights(self, stage: str, weights: dict[str, np.ndarray]) -> None:
        save_arrays(self.path / "stages" / f"{stage}.safetensors", weights)

    def load_weights(self, stage: str) -> dict[str, np.ndarray]:
        """Raises UsageError when there are none yet, DataError when they are damaged."""
        path = self.path / "stages" / f"{stage}.safetensors"
        if not path.is_file():
            raise UsageError(f"run {self.name} has no weights of stage {stage}; train it first")
        return load_arrays(path, f"train stage {stage} again")

    def write_result(self, name: str, result: dict[str, Any]) -> Path:
        path = self.path / "results" / f"{name}.json"
        write_atomically(path, json.dumps(result, indent=1))
        return path

    def ranks_path(self, name: str) -> Path:
        """Where the ranks of the targets of a result lie (streamrec_dist/ranks.py)."""
        return self.path / "results" / f"{name}.parquet"


def _stage_of(inside: Path) -> str | None:
    """The stage that left a file of a run, DATA for its data; None for what no other run can take."""
    if inside.parts[0] in ("dataset", "data.json"):
        return DATA
    if inside.parts[0] == "items":
        return "retrieve" if inside.parts[1] == "evidence" else "tokenize"
    return inside.stem if inside.parts[0] == "stages" and inside.stem in STAGES else None


def _check_links(run: Path) -> None:
    """Raise DataError for a link out of a run: what is written there would land elsewhere."""
    root = run.resolve()
    # Of a run that is going on folders vanish meanwhile, which walk does not mind.
    for folder, folders, files in os.walk(run):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                raise DataError(
                    f"{path}: a link that leads out of the run; put what it leads to in its place"
                )


def check_name(name: str) -> None:
    """Raise UsageError unless `name` can be a folder in runs/."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a run: letters, digits, '.', '_' and '-', starting with a letter or digit"
        )


def run_exists(runs: Path, name: str) -> bool:
    return (runs / name / "config.yaml").is_file()


def list_runs(runs: Path) -> list[RunDir]:
    """All runs, the one that was started last at the end."""
    found = [path.parent for path in runs.glob("*/config.yaml") if not path.parent.name.startswith(".")]
    return [RunDir(path) for path in sorted(found, key=lambda path: (path / "config.yaml").stat().st_mtime)]


def newest_run(runs: Path) -> RunDir:
    """Raises UsageError when there is none."""
    found = list_runs(runs)
    if not found:
        raise UsageError(f"no runs in {runs} yet; start one with `streamrec-dist train --stage all`")
    return RunDir.open(found[-1].path)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that readers see the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(unfinished, path)
    except OSError:
        # A part of it would take room that there may be none of.
        unfinished.unlink(missing_ok=True)
        raise
