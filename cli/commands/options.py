"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON object on the last line of stdout; the rest goes to stderr.")
]
RunArgument = Annotated[
    str | None, typer.Argument(metavar="[RUN]", show_default=False, help="A run; default: the newest.")
]


def examples(*lines: str) -> str:
    """The end of a help text: commands to copy."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)
