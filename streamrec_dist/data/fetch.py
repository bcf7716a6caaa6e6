"""Fetching a public data set by name: what is there and verified stays, the rest is downloaded."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamrec_dist.data.addresses import ADDRESSES, PublicSet, RemoteFile
from streamrec_dist.data.checksums import check_published, check_recorded, record
from streamrec_dist.data.download import Say, Unreachable, download
from streamrec_dist.data.raw import suggest
from streamrec_dist.errors import EnvironmentProblem, RunError, UsageError

#: Called with the file's name, the bytes that are there, and its length where that is known.
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Fetched:
    """A file that is there and verified.

    `checksum` is "algorithm:hex". It is `published` by the source, `recorded` at an earlier fetch, or taken
    on `first use`: then nothing vouches for the file but the connection it came over.
    """

    path: Path
    size: int
    checksum: str
    trust: Literal["published", "recorded", "first use"]
    downloaded: bool


def look_up(name: str) -> PublicSet:
    """The entry of a data set. Raises UsageError for an unknown name."""
    if name in ADDRESSES:
        return ADDRESSES[name]
    formats = dict.fromkeys(found.format for found in ADDRESSES.values())
    known = "\n".join(f"  {', '.join(name for name in ADDRESSES if name.startswith(one))}" for one in formats)
    raise UsageError(
        f"no public data set is named {name!r}{suggest(name, list(ADDRESSES))}; known are\n{known}"
    )


def fetch(name: str, folder: Path, progress: Progress, say: Say) -> list[Fetched]:
    """Brings the files of a public data set into `folder` and verifies them.

    Raises UsageError for an unknown name, EnvironmentProblem where a file cannot be had or stored (saying how
    to get it by hand), RunError where a file is not the one that was published or recorded.
    """
    found = look_up(name)
    if not found.files:
        raise EnvironmentProblem(
            f"{name} has no public address: open {found.page} in a browser, accept the terms "
            f"({found.terms}), and put the files into {folder}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UsageError(
            f"{folder}: no files can be written there ({error.strerror}); give another folder"
        ) from error
    return [_fetch_file(file, found, folder / file.name, progress, say) for file in found.files]


def _fetch_file(file: RemoteFile, found: PublicSet, target: Path, progress: Progress, say: Say) -> Fetched:
    there = target.exists()
    if not there:
        try:
            download(file, target, lambda done, total: progress(file.name, done, total), say)
        except Unreachable as error:
            raise Unreachable(
                f"{error}. By hand: open {file.url} (linked from {found.page}) in a browser, put the file at "
                f"{target}, and run this again"
            ) from error
    size = target.stat().st_size
    if file.checksum:
        if there:
            _check_present(lambda: check_published(file, target), target)
        return Fetched(target, size, file.checksum, "published", not there)
    known = _check_present(lambda: check_recorded(target), target) if there else None
    sha256 = known or record(target)
    return Fetched(target, size, f"sha256:{sha256}", "recorded" if known else "first use", not there)


def _check_present(check: Callable[[], str | None], target: Path) -> str | None:
    """The result of a check; a file that was there before is the user's and is not deleted."""
    try:
        return check()
    except RunError as error:
        raise RunError(
            f"{error}; remove it (and {target.name}.sha256 if there is one) to fetch it anew"
        ) from error
