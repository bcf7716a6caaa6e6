"""Checksums of downloaded files: published ones, and those recorded when a file was first seen."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from streamrec_dist.data.addresses import RemoteFile
from streamrec_dist.errors import RunError


def digest(path: Path, algorithm: str) -> str:
    """The checksum of a file in hex."""
    with path.open("rb") as stream:
        # Against damage, not attack: MD5 is what some publishers state.
        return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def check_published(file: RemoteFile, path: Path) -> None:
    """Raises RunError where `path` has not the length and the checksum that the publisher states, if any."""
    size = path.stat().st_size
    if file.size not in (None, size):
        raise RunError(f"{path}: wrong size, expected {file.size} bytes, found {size}")
    if file.checksum:
        algorithm, _, expected = file.checksum.partition(":")
        _compare(path, algorithm, expected)


def record(path: Path) -> str:
    """Writes the SHA-256 of a file into FILE.sha256 (as `sha256sum -c` reads it) and returns it."""
    found = digest(path, "sha256")
    fresh = path.with_name(f"{path.name}.sha256.new")
    fresh.write_text(f"{found}  {path.name}\n", encoding="utf-8")
    os.replace(fresh, _record_of(path))
    return found


def check_recorded(path: Path) -> str | None:
    """The recorded SHA-256 of a file, None where there is none. Raises RunError where the file has another."""
    try:
        expected = _record_of(path).read_text(encoding="utf-8", errors="replace").partition(" ")[0]
    except FileNotFoundError:
        return None
    _compare(path, "sha256", expected)
    return expected


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _compare(path: Path, algorithm: str, expected: str) -> None:
    found = digest(path, algorithm)
    if found != expected:
        raise RunError(f"{path}: wrong {algorithm} checksum, expected {expected}, found {found}")
