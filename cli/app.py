"""The `streamrec-dist` program: its commands, and how errors become exit codes."""

from __future__ import annotations

import errno
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.commands import (
    compare,
    data,
    export,
    ids,
    lifecycle,
    machines,
    planning,
    reporting,
    results,
    scaling,
    training,
)
from cli.commands.options import examples
from cli.output import clean
from streamrec_dist.errors import EnvironmentProblem, StreamRecError

INTERRUPTED = 130
NO_ACCESS = "choose another place, or get the right to use this one"
NO_ROOM = "free some space"
IN_THE_WAY = "choose another place, or move what is in the way there"
FIXES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), NO_ACCESS),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), NO_ROOM),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), IN_THE_WAY),
    errno.ENOENT: "choose a place that is there",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


class Commands(TyperGroup):
    """Runs a command: an error that a user can act on becomes one message and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except StreamRecError as error:
            print(clean(f"error: {error}"), file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            # Without a number it is none of the system's. Of a reader that has gone, Typer takes care.
            if error.errno is None or isinstance(error, BrokenPipeError):
                raise
            print(clean(f"error: {_told(error)}"), file=sys.stderr)
            raise typer.Exit(EnvironmentProblem.exit_code) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


def _told(error: OSError) -> str:
    """What the system refused, where, and what may help."""
    place = f"{error.filename}: " if error.filename else ""
    fix = FIXES.get(error.errno or 0)
    return f"{place}{error.strerror}" + (f"; {fix}" if fix else "")


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "streamrec-dist up cluster.yaml", "streamrec-dist train --stage rl", "streamrec-dist down"
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"streamrec-dist {version('streamrec-dist')}")
        raise typer.Exit


@app.callback()
def streamrec_dist(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train generative recommenders that think before they recommend, on a Ray cluster.

    Exit codes: 0 done, 1 the run failed, 2 wrong use or configuration, 3 something is missing on this
    machine (such as a cluster), 130 interrupted.
    """


lifecycle.add_to(app)
planning.add_to(app)
machines.add_to(app)
training.add_to(app)
scaling.add_to(app)
results.add_to(app)
compare.add_to(app)
export.add_to(app)
reporting.add_to(app)
app.add_typer(data.app, name="data")
app.add_typer(ids.app, name="ids")


def main() -> None:
    """Entry point of the installed program."""
    app()


if __name__ == "__main__":
    main()
