"""What the results of a run say: tables of models on the same targets, paired differences, test-time scaling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cli.output import decoded
from streamrec_dist.comparison import compare_each
from streamrec_dist.errors import StreamRecError
from streamrec_dist.ranks import load_ranks
from streamrec_dist.results import Group, Measures, Result, Results
from streamrec_dist.rundir import RunDir
from streamrec_dist.stages.evaluate import BASELINES, WEIGHTS, result_name

MEASURE = "ndcg@10"
#: From what needs no training to what was trained last.
ORDER = [
    *BASELINES,
    *(name for name in WEIGHTS if name not in ("retrieve", "direct", "pretrain", "sft", "rl")),
]
ORDER += ["retrieve", "direct", "pretrain", "sft", "rl"]
COUNTING = "counting"
#: Models that the last one is tested against in one report.
TESTED = 8


@dataclass(frozen=True)
class Row:
    """One model on the targets of a setting."""

    stage: str
    decoding: str
    measures: Measures
    by: dict[str, dict[str, Group]]
    name: str  # of the result; empty for counting, which every result has beside it
    usual: bool  # as the run's configuration says, not in another way that was tried

    @property
    def label(self) -> str:
        return f"{self.stage} ({self.decoding})" if self.decoding else self.stage


@dataclass(frozen=True)
class Setting:
    """Results on the same targets: rows from counting on, the last model last."""

    split: str
    masked: bool
    users: int
    targets: int
    synthetic: bool
    rows: list[Row]

    @property
    def title(self) -> str:
        how = "masked" if self.masked else "allowed"
        return f"{self.split} split, {self.users:,} users, history {how}"

    def row(self, stage: str) -> Row | None:
        """The usual one of a stage."""
        return next((row for row in self.rows if row.stage == stage and row.usual), None)

    @property
    def last(self) -> Row:
        """That of the model that was trained last, by the order of stages."""
        return next((row for row in reversed(self.rows) if row.usual), self.rows[-1])


def settings(run: RunDir, results: Results) -> list[Setting]:
    """The results of a run by what they may be compared in: test before valid, all users before some."""
    by_setting: dict[tuple[str, bool, int, int], list[Result]] = {}
    for result in results.found:
        by_setting.setdefault(result.setting, []).append(result)
    found = []
    for (split, masked, users, targets), members in by_setting.items():
        rows = [_row(result) for result in sorted(members, key=_place)]
        if not any(row.stage == COUNTING for row in rows):
            counting = members[0]
            rows.insert(0, Row(COUNTING, "", counting.counting, counting.counting_by, "", True))
        synthetic = any(result.synthetic for result in members)
        found.append(Setting(split, masked, users, targets, synthetic, rows))
    return sorted(found, key=lambda one: (-one.users, one.split != "test", one.masked))


def _row(result: Result) -> Row:
    how = result.decoding.model_dump() if result.decoding else None
    plain = result_name(result.stage, result.split, result.masked)
    usual = result.name in (plain, f"{plain}-{result.users}users")
    return Row(result.stage, decoded(how) if how else "", result.measures, result.by, result.name, usual)


def _place(result: Result) -> tuple[int, str, int, str]:
    """By stage, then by way of thinking, then by the number of samples."""
    how = result.decoding
    place = ORDER.index(result.stage) if result.stage in ORDER else len(ORDER)
    return place, how.thoughts if how else "", (how.samples or 0) if how else 0, result.name


def differences(run: RunDir, setting: Setting) -> tuple[list[tuple[Row, dict[str, Any]]], list[str]]:
    """How far the others of a setting are from its last model, paired, and what is to be said of unreadable ones.

    Entries of `compare_each` by row; none where there are not ranks of two.
    """
    rows = [row for row in setting.rows if row.name and row is not setting.last]
    last = setting.last
    # Those that are usual first: the others are ways of decoding one of them.
    rows = sorted(rows, key=lambda row: not row.usual)[:TESTED]
    if not last.name or not rows:
        return [], []
    try:
        first = load_ranks(run.ranks_path(last.name))
        others = [load_ranks(run.ranks_path(row.name)) for row in rows]
        found = compare_each(first, others)
    except StreamRecError as error:
        return [], [str(error)]
    return list(zip(rows, found, strict=True)), []


@dataclass(frozen=True)
class Scaling:
    """NDCG@10 of one model, in one setting with one beam, by the number of sampled thoughts; other ways beside."""

    title: str
    sampled: list[tuple[int, float, list[float]]]
    others: list[tuple[str, float, list[float]]]


def scalings(results: Iterable[Result]) -> list[Scaling]:
    """Of all models of which more than one way of thinking was evaluated."""
    families: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        if result.decoding and result.decoding.thoughts != "none":
            families.setdefault((result.stage, *result.setting, result.decoding.beam), []).append(result)
    found = []
    for (stage, split, masked, users, _, beam), members in families.items():
        sampled, others = [], []
        for result in members:
            assert result.decoding is not None
            one = result.measures[MEASURE]
            if result.decoding.thoughts == "sampled" and result.decoding.samples:
                sampled.append((result.decoding.samples, one.value, list(one.interval)))
            else:
                others.append((f"{result.decoding.thoughts} thoughts", one.value, list(one.interval)))
        if len(members) > 1:
            how = ", history masked" if masked else ""
            title = f"{stage}, {split}, {users:,} users{how}, beam {beam}"
            found.append(Scaling(title, sorted(sampled), others))
    return found


GROUPINGS = {
    "history": "events before the target",
    "popularity": "quarter of the items by popularity, least popular first",
    "cold": "targets that training has, and never has",
}


def breakdown(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, int, list[Group]]]]]:
    """By grouping: of each group its name, its targets, and what each of the rows has there."""
    found = []
    for grouping, title in GROUPINGS.items():
        groups = rows[0].by.get(grouping, {})
        made = [
            (name, group.targets, [row.by[grouping][name] for row in rows])
            for name, group in groups.items()
            if all(name in row.by.get(grouping, {}) for row in rows)
        ]
        if made:
            found.append((title, made))
    return found
