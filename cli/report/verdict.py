"""What a run came to, in a few lines: for whoever reads no further."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cli.output import chance, four, interval, span
from cli.report.judged import COUNTING, MEASURE, Row, Setting
from streamrec_dist.results import Measured
from streamrec_dist.rl.ledger import TOTAL, Entry, Mark
from streamrec_dist.rundir import STAGES
from streamrec_dist.summary import RunSummary, StageSummary

#: Below this p a difference is told as one.
LEVEL = 0.05


class Tone(StrEnum):
    good = "good"
    warn = "warn"
    bad = "bad"
    plain = "plain"


@dataclass(frozen=True)
class Line:
    tone: Tone
    text: str


@dataclass(frozen=True)
class Figure:
    """A number that is to be seen first, and what it is of."""

    label: str
    value: str
    beside: str
    tone: Tone = Tone.plain


def figures(
    summary: RunSummary, setting: Setting | None, entries: Sequence[Entry], seconds: float
) -> list[Figure]:
    """NDCG@10 of the last model, of SFT and of counting, how long it took, whether the rewards are healthy."""
    found = []
    if setting:
        last, sft, counting = setting.last, setting.row("sft"), setting.row(COUNTING)
        found.append(_measured(last, f"{last.stage}, NDCG@10, {setting.split}"))
        if sft and sft is not last:
            found.append(_measured(sft, "SFT"))
        if counting and counting is not last:
            found.append(_measured(counting, "counting baseline"))
    elif judged := [(name, validation(stage)[-1]) for name, stage in _in_order(summary) if validation(stage)]:
        name, (_, value, ends) = judged[-1]
        found.append(Figure(f"{name}, NDCG@10, validation", four(value), interval(ends)))
    found.append(Figure("time of all stages", span(seconds), _lives(summary)))
    if entries:
        tone, words = health(entries)
        found.append(Figure("rewards", "healthy" if tone is Tone.good else "check", words, tone))
    tone = Tone.warn if summary.warned else Tone.good
    found.append(
        Figure("warnings", f"{summary.warned:,}", "the newest: below" if summary.warned else "", tone)
    )
    return found


def lines(
    summary: RunSummary,
    setting: Setting | None,
    entries: Sequence[Entry],
    paired: Mapping[str, Mapping[str, Any]],
) -> list[Line]:
    """The same in words. `paired` has the paired difference in NDCG@10 of a stage from the last model, where there
    is one."""
    return [*_ending(summary), *_ranking(summary, setting, paired), *_rewards(summary, entries)]


def _ending(summary: RunSummary) -> Iterator[Line]:
    said = f": {summary.message}" if summary.message else ""
    if summary.ended == "failed":
        yield Line(Tone.bad, f"The run failed{said}")
    elif summary.ended == "stopped":
        yield Line(Tone.warn, f"The run was stopped{said}")
    elif not summary.ended and summary.first:
        state = "is paused" if summary.paused else "has not ended"
        yield Line(Tone.warn, f"The run {state}: what follows is as of its last event.")


def _ranking(
    summary: RunSummary, setting: Setting | None, paired: Mapping[str, Mapping[str, Any]]
) -> Iterator[Line]:
    if setting is None:
        return
    last, one = setting.last, setting.last.measures[MEASURE]
    for stage, name in (
        (COUNTING, "the counting baseline"),
        ("sft", "SFT"),
        ("retrieve", "the retriever alone"),
    ):
        other = setting.row(stage)
        if other is None or other is last:
            continue
        before = other.measures[MEASURE]
        ahead = one.value - before.value
        if ahead == 0:
            why = (
                "; no step was better on validation than the weights it began with"
                if _kept(summary, last)
                else ""
            )
            yield Line(Tone.plain, f"NDCG@10 of {last.stage} is that of {name}{why}.")
            continue
        relative = f" ({100 * ahead / before.value:+.1f} %)" if before.value else ""
        gain = f"NDCG@10 of {last.stage} is {four(abs(ahead))} {'above' if ahead > 0 else 'below'} that of {name}"
        sure, how = _sure(before, one, paired.get(stage))
        tone = Tone.plain if not sure else Tone.good if ahead > 0 else Tone.bad
        yield Line(tone, f"{gain}{relative}: {how}.")


def _sure(before: Measured, after: Measured, paired: Mapping[str, Any] | None) -> tuple[bool, str]:
    """Whether a difference is more than chance, and by what that is told: by a paired test where there is one."""
    if paired is not None:
        sure = paired["p_holm"] < LEVEL
        p = chance(paired["p_holm"])
        said = f"p {p}" if p.startswith("<") else f"p = {p}"
        return sure, f"{said}, paired" if sure else f"no more than chance may give ({said}, paired)"
    apart = after.interval[0] > before.interval[1] or after.interval[1] < before.interval[0]
    return apart, "their intervals are apart" if apart else "their intervals overlap"


def _kept(summary: RunSummary, last: Row) -> bool:
    """Whether a stage kept the weights with which it began."""
    stage = summary.stages.get(last.stage)
    return stage is not None and stage.outcome.get("best_step") == 0


def _rewards(summary: RunSummary, entries: Sequence[Entry]) -> Iterator[Line]:
    total = next((entry for entry in entries if entry.name == TOTAL), None)
    if total is None:
        return
    first, last = total.reward
    rose = last > first
    yield Line(
        Tone.good if rose else Tone.warn,
        f"The total reward went from {first:.3f} to {last:.3f} (first and last fifth of stage rl).",
    )
    judged = validation(summary.stages["rl"]) if "rl" in summary.stages else []
    if rose and len(judged) > 1 and judged[-1][1] <= judged[0][1]:
        (_, before, low), (_, after, high) = judged[0], judged[-1]
        yield Line(
            Tone.bad if high[1] < low[0] else Tone.warn,
            f"Validation NDCG@10 did not rise with it, from {four(before)} to {four(after)}: rewards may be gained "
            "that do not rank better.",
        )
    evaluation = summary.stages["rl"].evaluation if "rl" in summary.stages else None
    change = ends_of(evaluation.metrics, f"{MEASURE}_change") if evaluation else None
    if change is not None and change[1] < 0:
        yield Line(
            Tone.bad,
            f"Validation NDCG@10 at the end of stage rl is {four(-change[1])} to {four(-change[0])} below that of "
            "SFT (95 %, paired).",
        )
    for entry in entries:
        what = {
            Mark.dead: "tells the rollouts of a group hardly apart: it has no say",
            Mark.dominates: "decides nearly alone",
            Mark.against: "pulls against the others",
        }.get(entry.mark)
        if what and entry.name != TOTAL:
            share = f" ({100 * entry.share[1]:.0f} % of the advantage)" if entry.share else ""
            yield Line(Tone.warn, f"Reward {entry.name} {what}{share}.")
    if total.mark is Mark.dead:
        yield Line(Tone.bad, "No group has rollouts with different rewards: nothing can be learnt from them.")


def health(entries: Sequence[Entry]) -> tuple[Tone, str]:
    """Whether all terms have a say and none decides alone, in few words."""
    by_mark: dict[Mark, list[str]] = {}
    for entry in entries:
        by_mark.setdefault(entry.mark, []).append(entry.name)
    marked = {mark: names for mark, names in by_mark.items() if mark not in (Mark.ok, Mark.off, Mark.met)}
    if TOTAL in marked.get(Mark.dead, []):
        return Tone.bad, "no spread within groups"
    if not marked:
        return Tone.good, "all terms have a say"
    return Tone.warn, "; ".join(f"{', '.join(names)}: {mark}" for mark, names in marked.items())


def validation(stage: StageSummary) -> list[tuple[int, float, list[float]]]:
    """Step, NDCG@10 and its interval of the evaluations of a stage, in order; of one made again the last."""
    found = {}
    for event in stage.evaluations:
        value = event.metrics.get(MEASURE)
        if isinstance(value, int | float) and not isinstance(value, bool):
            ends = ends_of(event.metrics) or [float(value), float(value)]
            found[event.step] = (event.step, float(value), ends)
    return [found[step] for step in sorted(found)]


def ends_of(metrics: Mapping[str, Any], measure: str = MEASURE) -> list[float] | None:
    """The interval of a measure in metrics of an event or a stage, where there is one."""
    ends = metrics.get(f"{measure}_ci")
    if isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends):
        return [float(end) for end in ends]
    return None


def _in_order(summary: RunSummary) -> list[tuple[str, StageSummary]]:
    """Stages by name, baselines before those of the method."""
    return sorted(summary.stages.items(), key=lambda one: STAGES.index(one[0]) if one[0] in STAGES else -1)


def _measured(row: Row, label: str) -> Figure:
    one = row.measures[MEASURE]
    return Figure(label, four(one.value), interval(one.interval))


def _lives(summary: RunSummary) -> str:
    return f"started {summary.lives} times" if summary.lives > 1 else ""
