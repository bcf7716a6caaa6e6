"""The health of the policy: what its steps are like, each against its limit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

from cli.dashboard.lines import fit, heading, left, line, right
from cli.dashboard.marks import bar, brief, number, percent
from cli.dashboard.panel import Panel
from cli.dashboard.scene import Scene
from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.rundir import STAGES

#: Where so many tokens are clipped, the weights move further in a step than the objective can follow.
CLIPPED = 0.3
#: So many times the limit a gradient is that of a policy which falls apart.
GRADIENT, FAR = "gradient", 100.0
#: From here on a measure has room for a gauge.
WIDE = 36


@dataclass(frozen=True)
class Row:
    """A measure: its value in words, its limit in few words, how much of the limit it takes, what is wrong."""

    name: str
    value: str
    limit: str = ""
    share: float | None = None
    wrong: bool = False


def _draw(scene: Scene, width: int, height: int) -> list[Text]:
    return [_line(row, width, scene.ascii_only) for row in _rows(scene)][:height]


def _rows(scene: Scene) -> Iterator[Row]:
    rl = scene.config.stages.rl if scene.config else None
    kl, clipped, ratio = (scene.value(name) for name in ("kl", "clip_share", "ratio"))
    yield Row("KL to start", number(kl, 7), f"x{_point(rl.kl)}" if rl else "")
    yield _entropy(scene)
    share = clipped / CLIPPED if clipped is not None else None
    yield Row("clipped", percent(clipped), f"<{percent(CLIPPED)}", share, bool(share and share > 1))
    far = abs(ratio - 1) / rl.clip if ratio is not None and rl else None
    yield Row("ratio", number(ratio, 7), f"1±{_point(rl.clip)}" if rl else "", far, bool(far and far > 1))
    yield _gradient(scene, rl.clip_norm if rl else None)
    yield _rate(scene, rl.lr if rl else None)


def faults(scene: Scene) -> list[str]:
    """Measures of the policy beyond their limits, in words."""
    if scene.stage is None or scene.stage.name != "rl":
        return []
    # A gradient is clipped, and may well be larger now and then.
    beyond = [row for row in _rows(scene) if row.wrong and (row.name != GRADIENT or (row.share or 0) > FAR)]
    return [f"{row.name} is far beyond its limit: {row.value} ({row.limit})" for row in beyond]


def _entropy(scene: Scene) -> Row:
    """Of one token, in nats; at most that of a draw among all codes."""
    value = scene.value("entropy")
    most = math.log(scene.config.items.codes) if scene.config else None
    share = value / most if value is not None and most else None
    return Row("entropy", number(value, 7), f"≤{most:.3g}" if most else "", share)


def _gradient(scene: Scene, most: float | None) -> Row:
    value = scene.value("grad_norm")
    share = value / most if value is not None and most else None
    return Row(
        GRADIENT, number(value, 7), f"≤{_point(most)}" if most else "", share, bool(share and share > 1)
    )


def _rate(scene: Scene, peak: float | None) -> Row:
    value = scene.value("lr")
    share = value / peak if value is not None and peak else None
    return Row("learn. rate", number(value, 7), f"≤{_point(peak)}" if peak else "", share)


def training_rows(scene: Scene) -> list[Row]:
    """The measures of a stage that learns from rows."""
    section = _section(scene)
    rows = [_gradient(scene, getattr(section, "clip_norm", None)), _rate(scene, getattr(section, "lr", None))]
    if (rate := scene.mean("rows_per_s")) is not None:
        rows.append(Row("rows/s", brief(rate)))
    for name, key in (("epoch", "epochs"), ("round", "rounds"), ("fold", "folds")):
        if (value := scene.value(name)) is not None:
            most = getattr(section, key, None)
            # The epochs of stage 2 are those of a round.
            of = most * section.rounds if name == "epoch" and hasattr(section, "rounds") else most
            rows.append(Row(name, number(value), f"of {of}" if of else "", value / of if of else None))
    return [row for row in rows if row.value != "-"]


def _section(scene: Scene) -> object:
    """The part of the configuration that is about the current stage; None where it is not known."""
    if scene.config is None or scene.stage is None or scene.stage.name not in (*STAGES, *TRAINED):
        return None
    return scene.config.trained(scene.stage.name)


def _training(scene: Scene, width: int, height: int) -> list[Text]:
    return [_line(row, width, scene.ascii_only) for row in training_rows(scene)][:height]


def _line(row: Row, width: int, ascii_only: bool) -> Text:
    limit = row.limit.replace("≤", "<=").replace("±", "+-") if ascii_only else row.limit
    text = line((left(row.name, 12), "label"), right(row.value, 7))
    style = "bad" if row.wrong else "label"
    if width < WIDE:
        return fit(text.append(" ").append(left(limit, width - 20), style), width)
    text.append("  ").append(left(limit, 8), style)
    if row.share is not None:
        text.append(bar(row.share, min(24, width - 30), ascii_only), "bad" if row.wrong else "mark")
    return fit(text, width)


def _point(value: float) -> str:
    """A number in the fewest characters: 1, .2, 1e-4."""
    exponent = math.floor(math.log10(value)) if value > 0 else 0
    forms = (f"{value:g}".removeprefix("0"), f"{value / 10.0**exponent:g}e{exponent}")
    return min(forms, key=len) or "0"


PANEL = Panel(
    "policy",
    _draw,
    ("step", "run", "stage"),
    lambda scene, width: [6],
    lambda scene, width: heading("policy", width, scene.ascii_only),
    lambda scene: scene.course("entropy") is not None or scene.course("lr") is not None,
)
TRAINING = Panel(
    "training",
    _training,
    ("step", "run", "stage"),
    lambda scene, width: [len(training_rows(scene))],
    lambda scene, width: heading("training", width, scene.ascii_only),
    lambda scene: bool(training_rows(scene)),
)
