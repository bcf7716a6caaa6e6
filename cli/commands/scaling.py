"""scale: more or fewer processes of a role while a run goes on."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import cluster
from cli.asking import scale_run
from cli.commands.options import JsonOption, examples
from cli.output import emit_json, note
from cli.typed import whole_number
from cli.workspace import pick_run
from streamrec_dist.errors import UsageError


def scale(
    wanted: Annotated[
        list[str],
        typer.Argument(
            metavar="ROLE=NUMBER...", help="rollout, reward, annotate, evaluate, or learners, and how many."
        ),
    ],
    run: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="A run; default: the newest.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Have more or fewer processes of a role while a run goes on.

    Actors join and leave at once; what the cluster has no room for starts when nodes join. Learners write a
    checkpoint and start again from it, as many as asked for. The numbers hold until the run ends.
    """
    numbers = dict(_number(one) for one in wanted)
    directory = pick_run(run)
    config = directory.config()
    for role, count in numbers.items():
        config.check_scale(role, count)
    record = cluster.find_cluster()
    cluster.connect(record, to_work=False)

    scaled = scale_run(directory.path, numbers)
    cluster.disconnect()
    note(f"run {directory.name}: {', '.join(f'{role} {count}' for role, count in numbers.items())}")
    if as_json:
        emit_json({"run": directory.name, "scaled": scaled})


def _number(text: str) -> tuple[str, int]:
    role, _, count = text.partition("=")
    number = whole_number(count)
    if not role or number is None:
        raise UsageError(f"{text!r} is not ROLE=NUMBER, such as rollout=4")
    return role, number


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=examples("streamrec-dist scale rollout=4", "streamrec-dist scale learners=1 --run big")
    )(scale)
