"""What docs/events.md says of the metrics of events."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from streamrec_dist.events import Event
from tests.conftest import REPO

#: A word in capitals stands for names of any kind.
PLACE = re.compile(r"[A-Z]{2,}")


@dataclass
class Metrics:
    """Of a kind of event and a stage: metrics that are always there, and others, as patterns."""

    always: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)

    def knows(self, name: str) -> bool:
        patterns = (re.escape(one) for one in self.always | self.others)
        return any(re.fullmatch(PLACE.sub(r"[a-z_]+", one), name) for one in patterns)


def documented() -> dict[tuple[str, str], Metrics]:
    """By kind and stage; no stage for the run itself."""
    found: dict[tuple[str, str], Metrics] = {}
    about: list[Metrics] = []
    for line in (REPO / "docs" / "events.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            kind, *stages = re.findall(r"`([^`]+)`", line) if line.startswith("### ") else [""]
            about = [found.setdefault((kind, stage), Metrics()) for stage in stages or [""] if kind]
        elif about and (row := re.match(r"\| ([^|]*`[^|]*) \|", line)):
            for bracket, name in re.findall(r"(\(?)`([^`]+)`", row[1]):
                for metrics in about:
                    (metrics.others if bracket else metrics.always).add(name)
    return found


def unknown(events: Iterable[Event]) -> set[tuple[str, str, str]]:
    """Kind, stage and name of metrics that the document does not have."""
    known = documented()
    return {
        (event.kind, event.stage, name)
        for event in events
        for name in event.metrics
        if not known.get((event.kind, "" if event.kind == "workers" else event.stage), Metrics()).knows(name)
    }


def missing(events: Iterable[Event]) -> set[tuple[str, str, str]]:
    """Kind, stage and name of metrics that the document has and an event of that kind and stage has not."""
    known = documented()
    return {
        (event.kind, event.stage, name)
        for event in events
        if event.kind != "stage" or event.state == "done"
        for name in known.get((event.kind, event.stage), Metrics()).always
        if not PLACE.search(name) and name not in event.metrics
    }
