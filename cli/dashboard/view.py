"""The picture of a run: 80 columns and 24 rows suffice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.dashboard.marks import bar, brief, number, percent, sparkline
from cli.output import cell, clean, four, span
from streamrec_dist.baselines.config import SCORES_ITEMS
from streamrec_dist.summary import RunSummary, StageSummary
from streamrec_dist.types import REWARDS

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
ASCII_SPINNER = "|/-\\"
SIGNS = {"done": "✓", "skipped": "✓", "started": "▶", "waiting": "·"}
ASCII_SIGNS = {"done": "+", "skipped": "+", "started": ">", "waiting": "."}
LOSSES = {
    "tokenize": ("loss", "recon"),
    "pretrain": ("loss", "thinking", "direct"),
    "tiger": ("loss", "nll"),
    **dict.fromkeys(SCORES_ITEMS, ("loss",)),
    "sft": ("loss", "nll", "dpo", "quantisation", "state"),
}
ROUND_MEASURES = {
    "sampled nll": "sampled_nll",
    "gold nll": "gold_nll",
    "leak": "leak",
    "distinct": "distinct_thoughts",
    "of target": "target_share",
}
WARNINGS = 3
EVALUATION_MEASURES = {"R@5": "recall@5", "R@10": "recall@10", "N@5": "ndcg@5", "N@10": "ndcg@10"}


def render(state: RunSummary, now: float, width: int = 80, ascii_only: bool = False) -> RenderableType:
    """Draw a run as it is at `now` (seconds since the epoch)."""
    parts: list[RenderableType] = [_head(state, now), _stages(state, now, ascii_only)]
    stage = state.current()
    if stage:
        parts.append(_progress(state, stage, now, width, ascii_only))
        parts.append(
            _rewards(stage, width, ascii_only) if stage.name == "rl" else _losses(stage, width, ascii_only)
        )
        parts += _facts(stage, width)
    parts += _found(state, width)
    if not state.ended:
        parts.append(_fit("q leaves this view, the run goes on", width, "dim"))
    return Group(*parts)


def _head(state: RunSummary, now: float) -> Text:
    style = {"failed": "bold red", "stopped": "yellow", "done": "bold green"}.get(state.ended, "cyan")
    elapsed = span((state.last if state.ended else now) - state.first) if state.first else "starting"
    head = Text()
    head.append(f"run {clean(state.run)}", "bold")
    head.append(f"  {clean(state.ended) or 'going'}  {elapsed}", style)
    return head


def _stages(state: RunSummary, now: float, ascii_only: bool) -> Text:
    signs = ASCII_SIGNS if ascii_only else SIGNS
    text = Text(no_wrap=True, overflow="ellipsis")
    for stage in state.stages.values():
        ended = stage.ended or (state.last if state.ended else now)
        took = f" {span(ended - stage.started)}" if stage.started else ""
        style = {"started": "bold", "waiting": "dim"}.get(stage.state, "green")
        text.append(f"{signs.get(stage.state, '?')} {clean(stage.name)}{took}   ", style)
    return text


def _progress(state: RunSummary, stage: StageSummary, now: float, width: int, ascii_only: bool) -> Text:
    rate, left = stage.rate(), stage.seconds_left()
    pace = "" if rate is None else f"  {number(rate)}/s" if rate >= 1 else f"  {1 / rate:.1f} s a step"
    frames = ASCII_SPINNER if ascii_only else SPINNER
    sign = " " if state.ended else frames[int(now * 4) % len(frames)]
    if not stage.step:
        return _fit(f"{sign} working towards its first step", width)
    if not stage.total:
        return _fit(f"{sign} step {stage.step}{pace}  (no fixed number of steps)", width)
    rest = f" {stage.step}/{stage.total}  {percent(stage.step / stage.total)}{pace}"
    if left is not None and not state.ended and stage.state == "started":
        rest += f"  {span(left)} left"
    room = max(8, min(34, width - len(rest) - 3))
    return _fit(f"{sign} {bar(stage.step / stage.total, room, ascii_only)}{rest}", width)


def _losses(stage: StageSummary, width: int, ascii_only: bool) -> RenderableType:
    drawn = _grid("left", "right", "left")
    for name in LOSSES.get(stage.name, tuple(stage.courses)[:5]):
        if name in stage.metrics:
            spark = sparkline(_means(stage, name), min(40, width - 28), ascii_only)
            drawn.add_row(cell(name), cell(number(stage.metrics[name])), cell(spark, "cyan"))
    return drawn


def _means(stage: StageSummary, name: str) -> list[float]:
    course = stage.courses.get(name)
    return course.means().tolist() if course else []


def _rewards(stage: StageSummary, width: int, ascii_only: bool) -> RenderableType:
    drawn = _grid("left", "right", "right", "right", "left")
    drawn.add_row(*(cell(name, "dim") for name in ("reward", "mean", "spread", "share", "")))
    for name in (*REWARDS, "total"):
        key = f"reward/{name}"
        drawn.add_row(
            cell(name, "bold" if name == "total" else ""),
            cell(number(stage.metrics.get(key))),
            cell(number(stage.metrics.get(f"spread/{name}"))),
            cell("" if name == "total" else percent(stage.metrics.get(f"share/{name}"))),
            cell(sparkline(_means(stage, key), min(40, width - 42), ascii_only), "cyan"),
        )
    return drawn


def _facts(stage: StageSummary, width: int) -> Iterator[Text]:
    """Lines of `name value`, chosen for the stage."""
    get = stage.metrics.get
    if stage.name != "rl":
        names = ("lr", "grad_norm", "rows_per_s", "epoch", "round", "used_codes")
        yield _pairs(((name, brief(get(name))) for name in names if get(name) is not None), width)
        return
    policy = ("kl", "entropy", "clip_share", "grad_norm", "lr")
    yield _pairs(((name, brief(get(name))) for name in policy), width)
    flow = {"rollouts/s": "rollouts_per_s", "tokens/s": "tokens_per_s", "staleness": "staleness"}
    counts = {"buffered": "buffered", "version": "version"}
    yield _pairs(((label, brief(get(name))) for label, name in (flow | counts).items()), width)
    idle = [("learner idle", percent(get("learner_idle"))), ("actor idle", percent(get("rollout_idle")))]
    yield _pairs([*idle, ("no signal", brief(get("no_signal"))), ("gap", brief(get("policy_gap")))], width)


def _found(state: RunSummary, width: int) -> Iterator[Text]:
    """Last round of annotation, last evaluation, warnings, how it ended."""
    stage = state.current()
    if stage and stage.rounds:
        measures = stage.rounds[-1].metrics
        known = ((label, brief(measures[name])) for label, name in ROUND_MEASURES.items() if name in measures)
        yield _pairs(known, width, f"round {stage.rounds[-1].step}: ")
    if event := state.evaluation():
        head = f"{event.stage} at {event.step}, {event.split or 'valid'}: "
        measures = event.metrics
        known = (
            (label, _measure(measures[name]))
            for label, name in EVALUATION_MEASURES.items()
            if name in measures
        )
        yield _pairs(known, width, head)
    for warning in list(state.warnings)[-WARNINGS:]:
        yield _fit(f"warning: {warning.message}", width, "yellow")
    if state.ended and state.message:
        yield _fit(state.message, 3 * width, "red" if state.ended == "failed" else "")


def _measure(value: object) -> str:
    return four(value) if isinstance(value, int | float) else number(value)


def _pairs(pairs: Any, width: int, head: str = "") -> Text:
    return _fit(head + "  ".join(f"{name} {value}" for name, value in pairs), width)


def _fit(text: str, width: int, style: str = "") -> Text:
    short = Text(clean(text).replace("\n", " "), style)
    short.truncate(width, overflow="ellipsis")
    return short


def _grid(*columns: Any) -> Table:
    drawn = Table.grid(padding=(0, 2))
    for column in columns:
        drawn.add_column(justify=column, no_wrap=True)
    return drawn
