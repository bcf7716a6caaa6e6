"""data prepare: reading a data set."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.fetch import fetch
from cli.commands.options import JsonOption, examples
from cli.output import emit_json, note, show, table

app = typer.Typer(help="Read and check data sets.", no_args_is_help=True)


class Format(StrEnum):
    """Layouts that can be read."""

    lcrec = "lcrec"
    csv = "csv"
    parquet = "parquet"


@app.callback()
def data() -> None:
    """Read and check data sets."""


@app.command(
    epilog=examples(
        "streamrec-dist data prepare ../data/Beauty --format lcrec --out prepared/beauty",
        "streamrec-dist data prepare my-shop --format csv --out prepared/my-shop",
    )
)
def prepare(
    path: Annotated[Path, typer.Argument(help="The folder with the files.")],
    layout: Annotated[Format, typer.Option("--format", help="How the files are laid out.")],
    out: Annotated[Path, typer.Option(help="Where the prepared Parquet files go.")],
    as_json: JsonOption = False,
) -> None:
    """Check interactions and items and write them as Parquet."""
    from streamrec_dist.data.prepare import prepare as prepare_dataset

    dataset = prepare_dataset(path, layout.value, out)
    about = dataset.describe()
    note(f"wrote {out}")
    if as_json:
        emit_json({"out": str(out), **about})
    else:
        show(table(f"{dataset.name}", ["", ""], [(key, str(value)) for key, value in about.items()], left=2))


app.command(
    epilog=examples(
        "streamrec-dist data fetch movielens/1m",
        "streamrec-dist data fetch amazon2023/musical-instruments-5core --out raw/instruments",
    )
)(fetch)
