"""What the report says of a run, in words and numbers; its charts are made of the same summary."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.dashboard.marks import number
from cli.output import four, interval, span
from cli.report.judged import MEASURE, Setting, settings
from cli.report.verdict import ends_of
from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.config import Config
from streamrec_dist.config_file import differing_values
from streamrec_dist.errors import StreamRecError
from streamrec_dist.results import Results, results_of
from streamrec_dist.rl.ledger import Entry, ledger
from streamrec_dist.rundir import STAGES, RunDir, StageResult
from streamrec_dist.summary import RunSummary, StageSummary
from streamrec_dist.summary_file import whole_summary


@dataclass(frozen=True)
class StageFacts:
    """One stage in a line, and all that it ended with."""

    name: str
    state: str
    steps: str
    seconds: float
    outcome: str
    metrics: list[tuple[str, str]]

    @property
    def time(self) -> str:
        return span(self.seconds) if self.seconds else "-"


@dataclass
class Facts:
    """A run as the report sees it. `notes` say what could not be read."""

    run: RunDir
    config: Config
    summary: RunSummary
    taken: list[str]
    results: Results
    settings: list[Setting]
    stages: list[StageFacts]
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)

    @property
    def setting(self) -> Setting | None:
        """The one that the verdict is about."""
        return self.settings[0] if self.settings else None

    @property
    def seconds(self) -> float:
        """Of the stages that are the run's own."""
        return sum(stage.seconds for stage in self.stages if stage.name not in self.taken)


def gather(run: RunDir) -> Facts:
    """All that is read of a run, in memory that does not grow with its events. Raises ConfigError for its file."""
    config, (summary, taken), results = run.config(), whole_summary(run), results_of(run)
    notes, stages = list(results.notes), []
    for stage in summary.stages.values():
        try:
            # Events may name a stage anything, also what leads elsewhere as the name of a file.
            ended = run.stage_result(stage.name) if stage.name in (*STAGES, *TRAINED) else None
        except StreamRecError as error:
            notes.append(str(error))
            ended = None
        if stage.started or ended or stage.state != "waiting":
            stages.append(_stage(stage, ended, stage.name in taken))
    rl = summary.stages.get("rl")
    entries = ledger(rl.courses, config.stages.rl.rewards) if rl else []
    return Facts(run, config, summary, taken, results, settings(run, results), stages, entries, notes)


def _stage(stage: StageSummary, ended: StageResult | None, taken: bool) -> StageFacts:
    seconds = ended.seconds if ended else 0.0
    if not ended and stage.started:
        until = stage.ended or (stage.steps[-1][0] if stage.steps else stage.started)
        seconds = max(0.0, until - stage.started)
    steps = f"{stage.step:,} of {stage.total:,}" if stage.total else f"{stage.step:,}" if stage.step else "-"
    steps += f", fold {stage.fold}" if stage.fold else ""
    metrics = ended.metrics if ended else stage.outcome or stage.metrics
    state = f"{stage.state}, from another run" if taken else stage.state
    return StageFacts(stage.name, state, steps, seconds, outcome(metrics), list(flat(metrics)))


def outcome(metrics: Mapping[str, Any]) -> str:
    """What a stage came to."""
    value, ends = metrics.get(MEASURE), ends_of(metrics)
    if isinstance(value, int | float):
        return f"NDCG@10 {four(value)}" + (f" {interval(ends)}" if ends else "")
    surplus = metrics.get("surplus_share")
    if isinstance(surplus, int | float):
        return f"{100 * surplus:.1f} % of items shared an id before they were told apart"
    return ""


#: Entries of nested metrics that are listed.
MOST = 60


def flat(metrics: Mapping[str, Any], at: str = "") -> Sequence[tuple[str, str]]:
    """Metrics by dotted name, in words; lists of numbers in one line."""
    rows: list[tuple[str, str]] = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{at}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((f"{at}{name}", " ".join(number(item) for item in value[:32])))
        else:
            rows.append((f"{at}{name}", number(value)))
    return rows[:MOST]


def settings_of(config: Config) -> list[tuple[str, str, str]]:
    """Keys that differ from their defaults: name, value, default."""
    differing = differing_values([config, Config()])
    return [(key, shown(value), shown(default)) for key, (value, default) in differing.items()]


def shown(value: Any) -> str:
    return "-" if value is None else str(value)


def moment(t: float) -> str:
    """A time of an event, in words; events know seconds since the epoch only."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(t)) if t else "-"
