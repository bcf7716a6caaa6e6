"""Finding the files of a raw data set by their names."""

from __future__ import annotations

import re
from pathlib import Path

from streamrec_dist.errors import DataError


def names_in(folder: Path, expected: str) -> list[str]:
    """The names of the files in a folder. Raises DataError where it is none; `expected` says what it holds."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DataError(f"{folder}: expected a folder with {expected}, found {found}")
    return sorted(entry.name for entry in folder.iterdir() if entry.is_file())


def find_one(folder: Path, pattern: str, expected: str) -> re.Match[str]:
    """The match of the only file whose whole name matches. Raises DataError where there is none or several."""
    names = names_in(folder, expected)
    found = [match for name in names if (match := re.fullmatch(pattern, name))]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(match.string for match in found)
        raise DataError(
            f"{folder}: expected exactly one {expected}, found {several}; keep one, or give each its own folder"
        )
    raise DataError(f"{folder}: expected {expected}, found {', '.join(names) or 'no files'}")
