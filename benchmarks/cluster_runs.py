"""The commands that a user types, for benchmarks that train whole runs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamrec_dist.rundir import write_atomically

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs"
#: One measurement, as it is written to benchmarks/results.
Row = dict[str, Any]


def command(*words: str) -> str:
    """Run one command of the CLI in the checkout; its stdout. What it says on stderr is passed on."""
    print(f"$ streamrec-dist {' '.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "cli.app", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"streamrec-dist {words[0]} ended with exit code {done.returncode}")
    return done.stdout


def result(*words: str) -> dict[str, Any]:
    """What a command says with --json."""
    return json.loads(command(*words, "--json").splitlines()[-1])


def options(settings: Iterable[str]) -> list[str]:
    """`key=value` settings as options of `train`."""
    return [word for setting in settings for word in ("--set", setting)]


@contextmanager
def cluster(config: str) -> Iterator[None]:
    """A local cluster as configs/`config` says, for as long as the block runs."""
    command("up", f"configs/{config}")
    try:
        yield
    finally:
        command("down")


def fingerprint(run: str) -> str:
    """What a run in runs/ was trained with: rows of a run of that name and other settings are measured again."""
    return hashlib.sha256((RUNS / run / "config.yaml").read_bytes()).hexdigest()[:12]


def known_rows(path: Path) -> list[Row]:
    return json.loads(path.read_text()) if path.is_file() else []


def is_known(rows: list[Row], key: Row) -> bool:
    """Whether there is a row with all that `key` has."""
    return any(key == {field: row.get(field) for field in key} for row in rows)


def add_row(path: Path, rows: list[Row], row: Row) -> None:
    rows.append(row)
    write_atomically(path, json.dumps(rows, indent=1))
