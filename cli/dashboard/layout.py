"""Which panels a screen has, where, and how many lines each gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cli.dashboard.panel import Panel
from cli.dashboard.panels import (
    courses,
    evaluation,
    happened,
    losses,
    policy,
    rewards,
    staleness,
    throughput,
    workers,
)
from cli.dashboard.scene import Scene

#: From this width on panels stand beside one another.
BESIDE = 76
#: Lines that a chart gets at most.
HIGHEST = 14
#: Cells between them, of narrow screens and of those from this width on.
GAP, WIDE_GAP, WIDE = 1, 2, 100


#: The panels of each stage beside one another, with their shares of the width, and the worth of such a band.
ABOUT: dict[str, list[tuple[tuple[tuple[Panel, float], ...], int]]] = {
    "rl": [
        (((rewards.PANEL, 0.684), (policy.PANEL, 0.316)), 6),
        (((throughput.PANEL, 0.39), (staleness.PANEL, 0.285), (evaluation.PANEL, 0.325)), 3),
    ],
    "sft": [
        (((losses.LOSSES_PANEL, 0.6), (policy.TRAINING, 0.4)), 6),
        (((losses.THINKING, 0.6), (evaluation.PANEL, 0.4)), 3),
    ],
    "tokenize": [(((losses.LOSSES_PANEL, 0.5), (losses.CODEBOOKS, 0.5)), 6)],
    "": [(((losses.LOSSES_PANEL, 0.6), (policy.TRAINING, 0.4)), 6), (((evaluation.PANEL, 1.0),), 3)],
}


@dataclass(frozen=True)
class Band:
    """Panels beside one another, with the share of the width that each gets."""

    panels: tuple[tuple[Panel, float], ...]
    #: Of bands that have no room together, the one with the lowest worth is left out first; where lines are left, the
    #: one with the highest gets the first. One of no worth gets what all others have left.
    worth: int

    def sizes(self, scene: Scene, width: int) -> list[int]:
        """Heights at which it tells more than at a smaller one; at the first all its panels have what they need."""
        sizes = [
            panel.sizes(scene, cells)
            for (panel, _), cells in zip(self.panels, self.widths(width), strict=True)
        ]
        least = max(found[0] for found in sizes)
        return sorted({least, *(size for found in sizes for size in found if size > least)})

    def widths(self, width: int) -> list[int]:
        """Cells of each panel; between two of them there is a gap."""
        room = width - gap(width) * (len(self.panels) - 1)
        found = [int(room * share) for _, share in self.panels]
        return [*found[:-1], room - sum(found[:-1])]


def gap(width: int) -> int:
    """Cells between two panels."""
    return WIDE_GAP if width >= WIDE else GAP


def bands(scene: Scene, width: int) -> list[Band]:
    """What there is to tell of the current stage, from top to bottom."""
    stage = scene.stage.name if scene.stage else ""
    # Why a run did not come to its end matters more than what its processes were like.
    told = 7 if scene.ended not in ("", "done") else 4
    about: list[tuple[tuple[tuple[Panel, float], ...], int]] = [
        *ABOUT.get(stage, ABOUT[""]),
        (((courses.COURSE, 0.6), (courses.QUALITY, 0.4)), 0),
        (((workers.PANEL, 1.0),), 5),
        (((happened.PANEL, 1.0),), told),
    ]
    found = []
    for panels, worth in about:
        shown = [(panel, share) for panel, share in panels if panel.has(scene)]
        total = sum(share for _, share in shown)
        if shown and width >= BESIDE:
            found.append(Band(tuple((panel, share / total) for panel, share in shown), worth))
        elif worth:
            # One below the other; what stands first is worth most.
            found += [Band(((panel, 1.0),), 10 * worth - place) for place, (panel, _) in enumerate(shown)]
    return found


def arranged(found: Sequence[Band], scene: Scene, width: int, height: int) -> list[tuple[Band, int]]:
    """The bands that have room in `height` lines, each with its lines below the heading."""
    sizes = [(band, band.sizes(scene, width)) for band in found]
    kept = [(band, known) for band, known in sizes if band.worth > 0]
    while kept and sum(known[0] + 1 for _, known in kept) > height:
        kept.remove(min(kept, key=lambda pair: pair[0].worth))
    left = height - sum(known[0] + 1 for _, known in kept)
    lines = {id(band): known[0] for band, known in kept}
    # First the next size of all, those of most worth first, then the one after that.
    for step in range(1, max((len(known) for _, known in kept), default=0)):
        for band, known in sorted(kept, key=lambda pair: -pair[0].worth):
            if step < len(known) and known[step] - lines[id(band)] <= left:
                left -= known[step] - lines[id(band)]
                lines[id(band)] = known[step]
    for band, known in sorted(kept, key=lambda pair: -pair[0].worth):
        more = min(left, known[-1] - lines[id(band)])
        lines[id(band)] += more
        left -= more
    # What is of use only where there is room for everything else.
    for band, known in sizes:
        if band.worth == 0 and known[0] < left:
            lines[id(band)] = min(left - 1, HIGHEST)
    return [(band, lines[id(band)]) for band in found if id(band) in lines]
