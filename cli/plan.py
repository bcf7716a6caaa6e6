"""What a `train` command means: which run, with which configuration, through which stages."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cli.output import note
from cli.record import ClusterRecord
from cli.workspace import pick_run
from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.config import Config
from streamrec_dist.config_file import load_config
from streamrec_dist.errors import UsageError
from streamrec_dist.rundir import STAGES, RunDir, check_name


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

    def run(self) -> RunDir:
        return RunDir.open(self.runs / self.name)


def plan_run(
    record: ClusterRecord, run: str | None, config: Path | None, overrides: list[str], resume: bool
) -> RunPlan:
    """Settle name and configuration. Raises UsageError (name taken, other configuration) or ConfigError."""
    if resume:
        directory = pick_run(run, record.runs)
        # What is not said anew is as it was: the file may have changed since the run was started.
        wanted = load_config(config or directory.path / "config.yaml", overrides)
        if wanted.model.precision == "auto":
            # What the first machine settled on holds for the whole run: rollouts and learners round alike.
            settled = {"precision": directory.config().model.precision}
            wanted = wanted.model_copy(update={"model": wanted.model.model_copy(update=settled)})
        directory.check_same_config(wanted)
        return RunPlan(record.runs, directory.name, wanted, resume=True)
    wanted = load_config(config or record.config_path, overrides)
    name = run or _default_name(wanted)
    check_name(name)
    if (record.runs / name).exists():
        raise UsageError(
            f"run {name} exists already; continue it with --resume, or choose another --run NAME"
        )
    return RunPlan(record.runs, name, wanted, resume=False)


def training_goal(stage: StageName | None, baseline: BaselineName | None, run: str | None) -> str:
    """The stage or baseline that is to be trained. Raises UsageError unless there is one."""
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


def missing_stages(plan: RunPlan, last: str, only: bool, quiet: bool = False) -> tuple[str, ...]:
    """The stages up to `last`, or what the baseline `last` needs and itself, that the run lacks, in order.

    Says which come first, unless `quiet`. Raises UsageError under `only` when others than `last` itself are missing.
    """
    finished = plan.run().finished() if plan.resume else []
    if last in TRAINED:
        return _wanted(plan, ["tokenize", last], finished, only, quiet)
    stages = [name for name in STAGES if name != "retrieve" or plan.config.model.evidence]
    if last not in stages:
        raise UsageError(f"model.evidence is 0, so that run {plan.name} has no stage {last}")
    return _wanted(plan, stages[: stages.index(last) + 1], finished, only, quiet)


def _wanted(
    plan: RunPlan, stages: list[str], finished: list[str], only: bool, quiet: bool
) -> tuple[str, ...]:
    last = stages[-1]
    wanted = [name for name in stages if name not in finished]
    before = [name for name in wanted if name != last]
    if before and only:
        raise UsageError(
            f"run {plan.name} lacks {', '.join(before)}, which {last} needs; leave out --only to run them first"
        )
    if before and not quiet:
        note(f"run {plan.name} lacks {', '.join(before)}: they run first")
    return tuple(wanted)


def _default_name(config: Config) -> str:
    source = Path(config.data.path).name if config.data.path else config.data.format
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in source)
    return f"{plain.strip('._-')[:40] or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
