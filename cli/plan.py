"""What a `train` command means: which run, with which configuration, through which stages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cli.output import note
from cli.record import ClusterRecord
from cli.workspace import pick_run
from streamrec_dist.baselines.config import TRAINED, section_name
from streamrec_dist.config import Config
from streamrec_dist.config_file import differing_keys, load_config
from streamrec_dist.errors import UsageError
from streamrec_dist.rundir import STAGES, RunDir, check_name
from streamrec_dist.summary_file import summarised


class StageName(StrEnum):
    """What `train --stage` takes."""

    tokenize = "tokenize"
    retrieve = "retrieve"
    pretrain = "pretrain"
    sft = "sft"
    rl = "rl"
    all = "all"


class BaselineName(StrEnum):
    """What `train --baseline` takes."""

    counting = "counting"
    popularity = "popularity"
    sasrec = "sasrec"
    sasrec_bce = "sasrec-bce"
    gru4rec = "gru4rec"
    tiger = "tiger"


@dataclass(frozen=True)
class RunPlan:
    """A run that is to be made or continued."""

    runs: Path
    name: str
    config: Config
    resume: bool
    source: RunDir | None = None  # of a new run: where its first stages are taken from
    taken: tuple[str, ...] = ()

    def run(self) -> RunDir:
        return RunDir.open(self.runs / self.name)


def plan_run(
    record: ClusterRecord, run: str | None, config: Path | None, overrides: list[str], resume: bool
) -> RunPlan:
    """Settle name and configuration. Raises UsageError (name taken, other configuration) or ConfigError."""
    if resume:
        directory = pick_run(run, record.runs)
        # What is not said anew is as it was: the file may have changed since the run was started.
        wanted = _settled_by(directory, load_config(config or directory.path / "config.yaml", overrides))
        directory.check_same_config(wanted)
        return RunPlan(record.runs, directory.name, wanted, resume=True)
    wanted = load_config(config or record.config_path, overrides)
    name = _new_name(record, run, wanted)
    return RunPlan(record.runs, name, wanted, resume=False)


def plan_branch(
    record: ClusterRecord, source: str, goal: str, run: str | None, config: Path | None, overrides: list[str]
) -> RunPlan:
    """A new run that takes the stages before `goal` from run `source`, and its configuration unless one is given.

    Raises UsageError when `source` lacks one of them, or when what is said differs in a key that they depend on.
    """
    origin = RunDir.find(record.runs, source)
    given = load_config(config, overrides) if config else origin.config(overrides)
    wanted = _settled_by(origin, given)
    taken = _needed(wanted, goal, source)[:-1]
    if not taken:
        raise UsageError(f"{goal} is the first stage: there is nothing before it to take from run {source}")
    lacking = [stage for stage in taken if stage not in origin.finished()]
    if lacking:
        raise UsageError(f"run {source} has not finished {', '.join(lacking)}, which {goal} needs")
    differing = [key for key in differing_keys(origin.config(), wanted) if decides(key, taken)]
    if differing:
        raise UsageError(
            f"{', '.join(taken)} of run {source} were made with another configuration; leave these as they were, "
            "or train an earlier stage anew:\n  " + "\n  ".join(differing)
        )
    return RunPlan(record.runs, _new_name(record, run, wanted), wanted, False, origin, taken)


def _settled_by(run: RunDir, config: Config) -> Config:
    """What the first machine settled on holds for all that follows: rollouts and learners round alike."""
    if config.model.precision != "auto":
        return config
    settled = {"precision": run.config().model.precision}
    return config.model_copy(update={"model": config.model.model_copy(update=settled)})


def decides(key: str, stages: Sequence[str]) -> bool:
    """Whether finished `stages`, trained baselines among them, depend on a key of the configuration."""
    sections = ["seed", "deterministic", "data.", "items."]
    sections += [f"{section_name(stage)}." for stage in stages]
    if "retrieve" in stages:
        sections.append("model.evidence")
    if "tiger" in stages:
        sections.append("model.")
    if "pretrain" in stages:
        sections += ["model.", "stages.rl.rows"]
    return key.startswith(tuple(sections))


def _new_name(record: ClusterRecord, run: str | None, config: Config) -> str:
    name = run or _default_name(config)
    check_name(name)
    if (record.runs / name).exists():
        raise UsageError(
            f"run {name} exists already; continue it with --resume, or choose another --run NAME "
            f"(`streamrec-dist watch {name}` shows it)"
        )
    return name


def training_goal(
    stage: StageName | None, baseline: BaselineName | None, run: str | None, resume: bool
) -> str:
    """The stage or baseline that is to be trained; empty: what the run to resume was last about.

    Raises UsageError unless there is one.
    """
    if resume and stage is None and baseline is None:
        return ""
    if (stage is None) == (baseline is None):
        raise UsageError("train needs one of --stage STAGE and --baseline NAME")
    if baseline is None:
        return STAGES[-1] if stage is StageName.all else str(stage)
    if baseline.value not in TRAINED:
        judge = f"streamrec-dist evaluate {run or ''}".rstrip()
        raise UsageError(
            f"{baseline} has nothing to train, it is counted anew whenever it is judged:\n"
            f"  {judge} --stage {baseline}"
        )
    return baseline.value


def last_goal(run: RunDir) -> str:
    """The stage or baseline that a run was last started for; the last stage for one that never was."""
    planned = summarised(run)[0].planned
    return planned[-1] if planned and planned[-1] in (*STAGES, *TRAINED) else STAGES[-1]


def missing_stages(plan: RunPlan, last: str, only: bool, quiet: bool = False) -> tuple[str, ...]:
    """The stages up to `last`, or what the baseline `last` needs and itself, that the run lacks, in order.

    Says which come first, unless `quiet`. Raises UsageError under `only` when others than `last` itself are missing.
    """
    finished = plan.run().finished() if plan.resume else plan.taken
    wanted = tuple(name for name in _needed(plan.config, last, plan.name) if name not in finished)
    before = [name for name in wanted if name != last]
    if before and only:
        raise UsageError(
            f"run {plan.name} lacks {', '.join(before)}, which {last} needs; leave out --only to run them first"
        )
    if before and not quiet:
        note(f"run {plan.name} lacks {', '.join(before)}: they run first")
    return wanted


def _needed(config: Config, last: str, run: str) -> tuple[str, ...]:
    """The stages up to `last`, or what the baseline `last` needs and itself, in order."""
    if last in TRAINED:
        return ("tokenize", last)
    stages = [name for name in STAGES if name != "retrieve" or config.model.evidence]
    if last not in stages:
        raise UsageError(f"model.evidence is 0, so that run {run} has no stage {last}")
    return tuple(stages[: stages.index(last) + 1])


def _default_name(config: Config) -> str:
    source = Path(config.data.path).name if config.data.path else config.data.format
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in source)
    return f"{plain.strip('._-')[:40] or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
