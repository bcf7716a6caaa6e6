"""What stands in the sections of the report, in words and numbers ready for the page."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from cli.dashboard.marks import number
from cli.output import chance, four, interval, signed, title_of
from cli.report import verdict
from cli.report.album import Album
from cli.report.facts import Facts, moment, settings_of
from cli.report.judged import MEASURE, Row, Setting, breakdown, scalings
from cli.report.utilisation import utilisation
from streamrec_dist.metrics import MEASURES
from streamrec_dist.rl.ledger import Entry, Mark
from streamrec_dist.summary import RunSummary

#: Warnings that are shown at once; the others unfold.
WARNINGS = 10
SHOWN_MEASURES = ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr@20")

#: Models of a setting, and how far each is from the last one (`compare_each`).
Pairs = list[tuple[Row, dict[str, Any]]]


def head(facts: Facts, shown: dict[str, Any] | None, paired: list[Pairs]) -> dict[str, Any]:
    """What the run is, the verdict, and its stages; `shown` are the examples, `paired` those of each setting."""
    summary = facts.summary
    against = {row.stage: one["measures"][MEASURE] for row, one in (paired or [[]])[0] if row.usual}
    whole = max((stage.seconds for stage in facts.stages), default=0.0)
    return {
        "run": facts.run.name,
        "state": summary.state_at(time.time()) if summary.first else "not begun",
        "began": moment(summary.first),
        "ended": moment(summary.last),
        "made": moment(time.time()),
        "synthetic": (shown or {}).get("synthetic")
        or (facts.setting is not None and facts.setting.synthetic),
        "about": _about(facts, shown),
        "figures": verdict.figures(summary, facts.setting, facts.entries, facts.seconds),
        "lines": verdict.lines(summary, facts.setting, facts.entries, against),
        "stages": [(stage, round(100 * stage.seconds / whole, 1) if whole else 0) for stage in facts.stages],
        "taken": facts.taken,
    }


def _about(facts: Facts, shown: dict[str, Any] | None) -> list[str]:
    """What was trained, in a few words each."""
    config = facts.config
    model = f"{config.model.layers} + {config.model.layers} layers, width {config.model.d_model}"
    if shown:
        model = f"{_many(shown['parameters'])} parameters ({model})"
    ids = f"ids of {config.items.levels} x {config.items.codes} codes"
    data = shown["data"] if shown else config.data.path or config.data.format
    return [str(data), model, ids, f"{config.stages.sft.thoughts} thoughts", f"seed {config.seed}"]


def _many(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"


def evaluation(facts: Facts, album: Album, paired: list[Pairs]) -> dict[str, Any]:
    """Tables of the results, paired differences, test-time scaling."""
    tables = [
        {
            "setting": setting,
            "rows": [_measures(row) for row in setting.rows],
            "differences": [_difference(row, one["measures"][MEASURE]) for row, one in pairs],
            "groups": _groups(setting),
        }
        for setting, pairs in zip(facts.settings, paired, strict=True)
    ]
    found = scalings(facts.results.found)
    return {
        "tables": tables,
        "measures": [title_of(name) for name in SHOWN_MEASURES],
        "evaluation_chart": album.evaluation(),
        "validation_chart": album.validation(),
        "scalings": [_scaling(one) for one in found],
        "scaling_chart": album.scaling(),
        "all_measures": ", ".join(map(title_of, MEASURES)),
    }


def _measures(row: Row) -> dict[str, Any]:
    cells = [
        (four(row.measures[name].value), interval(row.measures[name].interval)) for name in SHOWN_MEASURES
    ]
    return {"stage": row.stage, "decoding": row.decoding, "usual": row.usual, "cells": cells}


def _difference(row: Row, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "label": row.label,
        "difference": signed(found["difference"]),
        "interval": interval(found["difference_ci"], signed),
        "relative": "-" if found["relative"] is None else f"{100 * found['relative']:+.1f} %",
        "p": chance(found["p"]),
        "p_holm": chance(found["p_holm"]),
        "tone": ("" if found["p_holm"] >= 0.05 else "bad" if found["difference"] > 0 else "good"),
        "users": f"{found['wins']:,} / {found['losses']:,} / {found['ties']:,}",
    }


def _groups(setting: Setting) -> dict[str, Any] | None:
    """NDCG@10 of the last model and of counting by groups of targets."""
    rows = [setting.rows[0], setting.last]
    if rows[0] is rows[1]:
        return None
    tables = [
        (
            title,
            [
                (name, f"{targets:,}", [_group(group.ndcg, group.interval) for group in groups])
                for name, targets, groups in made
            ],
        )
        for title, made in breakdown(rows)
    ]
    return {"models": [row.label for row in rows], "tables": tables}


def _group(value: float | None, ends: list[float] | None) -> str:
    return "-" if value is None or ends is None else f"{four(value)} {interval(ends)}"


def _scaling(one: Any) -> dict[str, Any]:
    rows = [(name, four(value), interval(ends)) for name, value, ends in one.others]
    rows += [(f"{count} sampled", four(value), interval(ends)) for count, value, ends in one.sampled]
    return {"title": one.title, "rows": rows}


def stage_3(facts: Facts, album: Album) -> dict[str, Any]:
    """Reward ledger, staleness, utilisation."""
    rl = facts.summary.stages.get("rl")
    found = utilisation(rl.courses) if rl else None
    shares = []
    if found:
        for role in found.roles:
            parts = [(part, f"{100 * role.share(part, found.lengths):.0f} %") for part in role.parts]
            shares.append((role.name, parts))
    return {
        "entries": [_entry(entry) for entry in facts.entries],
        "ledger_chart": album.ledger(rl) if rl else None,
        "staleness_chart": album.staleness(rl) if rl else None,
        "bound": facts.config.stages.rl.max_staleness,
        "utilisation_chart": album.utilisation(found) if found else None,
        "shares": shares,
        "processes": _processes(facts.summary),
        "told": moment(facts.summary.told),
    }


def _entry(entry: Entry) -> dict[str, Any]:
    def way(pair: tuple[float, float] | None, text: Any) -> tuple[str, str]:
        return (text(pair[0]), text(pair[1])) if pair else ("", "")

    tone = {Mark.ok: "good", Mark.met: "good", Mark.off: ""}.get(entry.mark, "warn")
    return {
        "name": entry.name,
        "weight": "" if entry.weight is None else f"{entry.weight:g}",
        "reward": way(entry.reward, number),
        "spread": way(entry.spread, number),
        "share": way(entry.share, lambda share: f"{round(100 * share)} %"),
        "mark": str(entry.mark),
        "tone": tone,
    }


def _processes(summary: RunSummary) -> list[tuple[str, int, str, str, str, str]]:
    """By role: how many, on how many nodes, their states, MiB of memory, and how often they were replaced."""
    roles: dict[str, list[dict[str, Any]]] = {}
    for process in summary.processes:
        roles.setdefault(str(process.get("role")), []).append(process)
    found = []
    for role, members in roles.items():
        states = Counter(str(one.get("state")) for one in members)
        memory = [one["memory_mib"] for one in members if isinstance(one.get("memory_mib"), int | float)]
        replaced = [one["restarts"] for one in members if isinstance(one.get("restarts"), int | float)]
        found.append(
            (
                role,
                len(members),
                str(len({str(one.get("node")) for one in members})),
                ", ".join(f"{count} {state}" for state, count in states.items()),
                f"{sum(memory):,.0f}" if memory else "-",
                f"{sum(replaced):g}" if replaced else "-",
            )
        )
    return found


def curves(facts: Facts, album: Album) -> dict[str, Any]:
    """All metrics of all stages."""
    made = []
    for place, stage in enumerate(facts.summary.stages.values()):
        charts = list(album.curves(stage, place))
        rounds = album.rounds(stage)
        metrics = next((one.metrics for one in facts.stages if one.name == stage.name), [])
        if charts or rounds or metrics:
            made.append({"name": stage.name, "charts": charts, "rounds": rounds, "metrics": metrics})
    return {"curves": made, "left_out": album.left_out}


def ending(facts: Facts) -> dict[str, Any]:
    """Warnings, configuration, environment."""
    warnings = [(moment(event.t), event.stage, event.message) for event in reversed(facts.summary.warnings)]
    return {
        "warned": facts.summary.warned,
        "warnings": warnings[:WARNINGS],
        "more_warnings": warnings[WARNINGS:],
        "notes": facts.notes,
        "settings": settings_of(facts.config),
        "config": (facts.run.path / "config.yaml").read_text(encoding="utf-8"),
        "environment": facts.summary.environment,
    }
