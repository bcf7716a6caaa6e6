"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON object on the last line of stdout; the rest goes to stderr.")
]
RunArgument = Annotated[
    str | None, typer.Argument(metavar="[RUN]", show_default=False, help="A run; default: the newest.")
]


class Thoughts(StrEnum):
    """How the thoughts before an item are found."""

    greedy = "greedy"
    sampled = "sampled"
    beam = "beam"


ThoughtsOption = Annotated[
    Thoughts | None,
    typer.Option(
        show_default=False,
        help="How thoughts are found: the likeliest; --samples of them, their items merged; or one beam over "
        "thoughts and item. Default: the run's stages.evaluate.thoughts.",
    ),
]
SamplesOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=1000, show_default=False, help="Thoughts that --thoughts sampled draws for a user."
    ),
]
BeamOption = Annotated[
    int | None,
    typer.Option(min=1, show_default=False, help="Sequences kept in beam search; default: the run's."),
]


def examples(*lines: str) -> str:
    """The end of a help text: commands to copy."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)
