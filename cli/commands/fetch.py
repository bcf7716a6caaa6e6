"""data fetch: downloading a public data set."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from cli.commands.options import JsonOption
from cli.output import clean, emit_json, note

#: Seconds between two lines about a download where no terminal shows bars.
EVERY = 10.0
TRUST = {
    "published": "is what the publisher states",
    "recorded": "is what it was at an earlier fetch",
    "first use": "is now trusted: the publisher states none, so it was recorded on this first use",
}


def fetch(
    name: Annotated[str, typer.Argument(help="Which data set, such as movielens/1m or amazon2014/beauty.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder for the files. Default: data/NAME.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Download a public data set, or what is missing of it, and verify it.

    A download that broke off goes on where it stopped.
    """
    from streamrec_dist.data.fetch import fetch as fetch_files
    from streamrec_dist.data.fetch import look_up

    found = look_up(name)
    folder = out or Path("data") / name
    with _progress() as progress:
        files = fetch_files(name, folder, progress, note)
    for file in files:
        note(f"{file.path}: {file.checksum} {TRUST[file.trust]}")
    note(f"terms: {found.terms} ({found.page})")
    note(f"{'fetched' if any(file.downloaded for file in files) else 'all files were there'}: {folder}")
    if as_json:
        shown = [
            {
                "path": str(file.path),
                "bytes": file.size,
                "checksum": file.checksum,
                "trust": file.trust,
                "downloaded": file.downloaded,
            }
            for file in files
        ]
        emit_json({"name": name, "format": found.format, "out": str(folder), "files": shown})


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A function to report progress to: bars on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=False),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def draw(file: str, done: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(clean(file), total=total)
            bars.update(tasks[file], completed=done, total=total)

        yield draw


def _lines() -> Callable[[str, int, int | None], None]:
    last = {"at": 0.0}

    def say(file: str, done: int, total: int | None) -> None:
        if time.monotonic() - last["at"] >= EVERY or done == total:
            last["at"] = time.monotonic()
            note(f"{file}: {done / 1e6:,.1f} MB" + (f" of {total / 1e6:,.1f} MB" if total else ""))

    return say
