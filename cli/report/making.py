"""A report is made: facts, charts, examples, and the page of them all."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from cli.output import decoded
from cli.report import sections
from cli.report.album import Album
from cli.report.facts import Facts, gather
from cli.report.judged import Setting, differences
from cli.report.page import render
from streamrec_dist.errors import StreamRecError
from streamrec_dist.rundir import RunDir, write_atomically

#: Settings in which models are tested against one another: each test reads all ranks.
TESTED = 6


def make_report(run: RunDir, examples: int) -> tuple[Path, list[str]]:
    """Write the report of a run into its folder; the page, and what had to be left out of it.

    `examples` recommendations are made in this process. Raises ConfigError for a run's file that cannot be read.
    """
    facts = gather(run)
    shown = _examples(facts, examples) if examples else None
    paired = [
        _paired(facts, setting) if place < TESTED else [] for place, setting in enumerate(facts.settings)
    ]
    album = Album(run.report_path, facts)
    run.report_path.mkdir(exist_ok=True)
    content = {
        **sections.head(facts, shown, paired),
        **sections.evaluation(facts, album, paired),
        **sections.stage_3(facts, album),
        **sections.curves(facts, album),
        "examples": shown,
        **sections.ending(facts),
    }
    page = run.report_path / "index.html"
    write_atomically(page, render(**content))
    album.remove_older()
    return page, facts.notes


def _examples(facts: Facts, count: int) -> dict[str, Any] | None:
    try:
        facts.run.last_model()
        # torch and Ray take seconds, and only this needs them.
        from cli.launch import examples

        found = examples(facts.run, count)
        for example in found["shown"]:
            example["thoughts"] = _told_once(example["thoughts"])
        return {**found, "how": decoded(found["decoding"])}
    except StreamRecError as error:
        facts.notes.append(f"no examples: {error}")
        return None


def _paired(facts: Facts, setting: Setting) -> sections.Pairs:
    found, notes = differences(facts.run, setting)
    facts.notes += notes
    return found


def _told_once(thoughts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Thoughts with the `steps` at which they come, equal ones that follow one another in one."""
    found = []
    for token, equal in groupby(enumerate(thoughts, start=1), key=lambda numbered: numbered[1]["token"]):
        steps = [(step, thought) for step, thought in equal]
        first, last = steps[0][0], steps[-1][0]
        where = f"step {first}" if first == last else f"steps {first} to {last}"
        found.append({"steps": where, "token": token, "nearest": steps[0][1]["nearest"]})
    return found
