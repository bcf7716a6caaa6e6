"""The view without a terminal: one line a step."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from cli.dashboard.lines import words
from cli.dashboard.marks import number
from cli.dashboard.view import View
from streamrec_dist.baselines.config import SCORES_ITEMS
from streamrec_dist.events import Event
from streamrec_dist.summary import RunSummary

#: Characters of a line at most.
LONGEST = 10_000
#: What a line of a stage shows; the rest is in events.jsonl.
HEADLINES = {
    "tokenize": ("loss", "recon", "used_codes"),
    "pretrain": ("loss", "thinking", "direct", "lr", "rows_per_s"),
    "sft": ("loss", "nll", "dpo", "quantisation", "state", "rows_per_s"),
    "tiger": ("loss", "nll", "lr", "rows_per_s"),
    **dict.fromkeys(SCORES_ITEMS, ("loss", "lr", "rows_per_s")),
    "rl": (
        *(
            f"reward/{name}"
            for name in ("total", "format", "exact_match", "similarity", "likelihood", "ranking")
        ),
        *("kl", "entropy", "rollouts_per_s", "staleness", "learner_idle", "rollout_idle"),
    ),
}


class PlainView(View):
    """Prints each event as it comes."""

    shows_past = True

    def __init__(self, to_stderr: bool = False):
        self.stream = sys.stderr if to_stderr else sys.stdout

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.flush()

    def update(self, state: RunSummary, events: list[Event], lost: bool = False) -> None:
        for event in events:
            # The state of all processes is nothing for a line.
            if event.kind == "workers":
                continue
            print(f"{time.strftime('%H:%M:%S', time.localtime(event.t))} {line(event)}", file=self.stream)
        self.stream.flush()


def line(event: Event) -> str:
    """An event in one line."""
    return words(_told(event), LONGEST)


def _told(event: Event) -> str:
    if event.kind == "step":
        of = f"/{event.total}" if event.total else ""
        names = HEADLINES.get(event.stage) or tuple(event.metrics)[:6]
        return f"{event.stage} {event.step}{of} {_measures(event, names)}"
    if event.kind == "annotate":
        done = f"{event.stage} annotated {event.step}/{event.total}"
        return f"{done} {_measures(event, ('round', 'rows_per_s'))}"
    if event.kind in ("eval", "round"):
        return (
            f"{event.stage} {event.kind} {event.step} {event.split} {_measures(event, tuple(event.metrics))}"
        )
    head = " ".join(part for part in (event.kind, event.stage, event.state) if part)
    return f"{head}: {event.message}" if event.message else head


def _measures(event: Event, names: tuple[str, ...]) -> str:
    return " ".join(
        f"{name.removeprefix('reward/')} {_value(event.metrics[name])}"
        for name in names
        if name in event.metrics
    )


def _value(value: object) -> str:
    if isinstance(value, list):
        return "[" + " ".join(number(item) for item in value) + "]"
    return number(value)
