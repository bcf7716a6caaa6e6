"""The processes of a run: each actor and rank, or, where there are too many, each role."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rich.text import Text

from cli.dashboard.lines import fit, heading, left, line, right, words, wrapped
from cli.dashboard.marks import brief, short_span
from cli.dashboard.panel import Panel
from cli.dashboard.scene import Scene, figure
from streamrec_dist.summary import SILENCE_S

#: Narrowest column of one worker in few words, and the narrowest line of one in all.
COMPACT, WHOLE = 38, 96
STATES = {"ready": "good", "starting": "warn", "leaving": "label", "ended": "label"}


@dataclass(frozen=True)
class Worker:
    """One process, of a file that may come from anybody."""

    role: str
    number: int
    node: str
    pid: int
    state: str
    version: float | None
    rate: float | None
    memory: float | None  # MiB
    restarts: int

    @property
    def name(self) -> str:
        return f"{self.role} {self.number}"


def workers(scene: Scene) -> list[Worker]:
    """All there are, by role and number."""
    found = [
        Worker(
            words(row.get("role") or "?", 30),
            _whole(row.get("number")),
            words(row.get("node") or "-", 60),
            _whole(row.get("pid")),
            # Nobody is left of a run that has ended, or died.
            "ended" if scene.ended else words(row.get("state") or "-", 20),
            figure(row.get("version")),
            None if scene.ended else figure(row.get("rate")),
            figure(row.get("memory_mib")),
            _whole(row.get("restarts")),
        )
        for row in scene.summary.processes
    ]
    return sorted(found, key=lambda worker: (worker.role, worker.number))


def _whole(value: object) -> int:
    return int(figure(value) or 0)


def _draw(scene: Scene, width: int, height: int) -> list[Text]:
    found = workers(scene)
    if width >= WHOLE and len(found) <= height:
        return [whole(worker, width) for worker in found]
    columns = _columns(width)
    rows = -(-len(found) // columns)
    if rows > height:
        return _roles(found, width, height)
    cells = (width + 2) // columns - 2
    lines = []
    for row in range(rows):
        text = Text()
        for worker in found[row::rows]:
            text.append("  " if text else "").append_text(_compact(worker, cells, scene.ascii_only))
        lines.append(text)
    return lines


def whole(worker: Worker, width: int) -> Text:
    """A worker in one line, with all that is known of it."""
    called, room = ("version ", 13) if width >= WHOLE else ("v", 8)
    text = line(
        (left(worker.name, 13), "title"),
        (left(worker.state, 10), STATES.get(worker.state, "bad")),
        left("-" if worker.version is None else f"{called}{worker.version:.0f}", len(called) + 6),
        right(_rate(worker), 8),
        right(_memory(worker), 10),
        "  ",
        (left(_restarts(worker), room), "warn"),
        (f"process {worker.pid} on {worker.node}" if worker.pid else "", "label"),
    )
    return fit(text, width)


def _compact(worker: Worker, width: int, ascii_only: bool) -> Text:
    """A worker in few words; of one that is ready a mark says so."""
    version = "-" if worker.version is None else f"v{worker.version:.0f}"
    ready = worker.state == "ready"
    middle = left(version, 5) + right(_rate(worker), 7)
    marks = "+!" if ascii_only else "●○"
    style = STATES.get(worker.state, "bad")
    text = line(
        (f"{marks[not ready]} ", style),
        (left(worker.name, 11), "title"),
        middle if ready else (left(worker.state, 12), style),
        right("-" if worker.memory is None else f"{worker.memory:.0f}M", 7),
        (f" {worker.restarts}x new" if worker.restarts else "", "warn"),
    )
    return fit(text, width)


def _columns(width: int) -> int:
    return max(1, (width + 2) // (COMPACT + 2))


def _sizes(scene: Scene, width: int) -> list[int]:
    """All roles beside one another, all processes in columns, a line a process."""
    count = len(scene.summary.processes)
    return sorted({1, -(-count // _columns(width)), *([count] if width >= WHOLE else [])})


def _roles(found: list[Worker], width: int, height: int) -> list[Text]:
    """All processes of a role in one line, or, where these are too many, in a few words."""
    roles = {
        name: [worker for worker in found if worker.role == name] for name in (one.role for one in found)
    }
    if len(roles) <= height:
        return [_role(name, mine, width) for name, mine in roles.items()]
    parts = []
    for name, mine in roles.items():
        ready = sum(worker.state == "ready" for worker in mine)
        restarts = sum(worker.restarts for worker in mine)
        anew = f" ({restarts} replaced)" if restarts else ""
        parts.append(f"{name} {ready}/{len(mine)}{anew}")
    return wrapped(parts, width)[:height]


def _role(role: str, mine: list[Worker], width: int) -> Text:
    """All processes of a role in one line."""
    states = Counter(worker.state for worker in mine)
    versions = [worker.version for worker in mine if worker.version is not None]
    memory = sum(worker.memory or 0 for worker in mine)
    text = line((left(role, 10), "title"))
    for state, count in states.most_common():
        text.append(f"{count} {state}  ", STATES.get(state, "bad"))
    if versions:
        low, high = min(versions), max(versions)
        text.append(f"version {low:.0f}" + (f" to {high:.0f}" if high > low else "") + "  ")
    text.append(f"{brief(sum(worker.rate or 0 for worker in mine))} calls/s  {memory / 1024:.3g} GiB  ")
    restarts = sum(worker.restarts for worker in mine)
    return fit(text.append(f"{restarts} replaced" if restarts else "", "warn"), width)


def _rate(worker: Worker) -> str:
    return "-" if worker.rate is None else f"{brief(worker.rate)}/s"


def _memory(worker: Worker) -> str:
    return "-" if worker.memory is None else f"{worker.memory:.0f} MiB"


def _restarts(worker: Worker) -> str:
    return f"{worker.restarts}x new" if worker.restarts else ""


def _note(scene: Scene) -> str:
    """How old the news is, where that matters."""
    summary = scene.summary
    age = scene.until - summary.told if summary.told else 0.0
    return f"{short_span(age)} ago" if age > SILENCE_S and not scene.ended else ""


PANEL = Panel(
    "workers",
    _draw,
    ("workers", "run"),
    _sizes,
    lambda scene, width: heading("workers", width, scene.ascii_only, _note(scene)),
    lambda scene: bool(scene.summary.processes),
    ticks=True,
)
