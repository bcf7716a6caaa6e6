"""What trace viewers ask of a trace in Chrome's JSON array format."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

#: Viewers take numbers of processes and threads as unsigned 32 bits.
LARGEST = 2**31


def checked(path: Path) -> list[dict[str, Any]]:
    """The events of a trace file, all of which a viewer can show: spans of a thread follow one another."""
    events = json.loads(path.read_text(encoding="utf-8"))
    threads: dict[tuple[int, int], list[tuple[int, int]]] = {}
    pairs: Counter[tuple] = Counter()
    for event in events:
        assert all(isinstance(event[key], int) and 0 <= event[key] < LARGEST for key in ("pid", "tid")), event
        assert event["ph"] in ("X", "M", "b", "e") and isinstance(event["name"], str)
        place = event["pid"], event["tid"]
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name") and isinstance(event["args"]["name"], str)
            continue
        assert isinstance(event["ts"], int) and event["cat"]
        if event["ph"] == "X":
            assert isinstance(event["dur"], int) and event["dur"] >= 0, event
            threads.setdefault(place, []).append((event["ts"], event["ts"] + event["dur"]))
        else:
            pairs[(*place, event["cat"], event["id"], event["name"])] += 1 if event["ph"] == "b" else -1
    assert set(pairs.values()) <= {0}, "what begins ends"
    for spans in threads.values():
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(sorted(spans)))
    named = {(event["pid"], event["tid"]) for event in events if event["ph"] == "M"}
    assert named >= set(threads), "every thread has a name"
    return events


def spans(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The spans of a name, in the order in which they began."""
    return sorted(
        (one for one in events if one["ph"] == "X" and one["name"] == name), key=lambda one: one["ts"]
    )
