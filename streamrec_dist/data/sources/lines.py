"""Text files read line by line, plain, gzipped or inside an archive; damage ends the file, not the program."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from streamrec_dist.data.events import Problems
from streamrec_dist.errors import DataError

BUFFER = 1 << 18
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError)


@dataclass(frozen=True)
class TextFile:
    """A file of lines: `path` itself (gzipped where it ends in .gz), or `member` of the archive `path`.

    The member of a zip is named in full; that of a tar by its last part, since finding the folder it is in
    would mean to read through the whole archive.
    """

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The unpacked bytes. Raises DataError where the archive has no such member, and DAMAGE."""
        if self.member and self.path.suffix == ".zip":
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as packed:
                yield _buffered(packed)
        elif self.member:
            with tarfile.open(self.path, "r|*") as stream:
                yield _buffered(self._member_of(stream))
        elif self.path.suffix == ".gz":
            with gzip.open(self.path, "rb") as packed:
                yield _buffered(packed)
        else:
            with self.path.open("rb", buffering=BUFFER) as plain:
                yield plain

    def _member_of(self, stream: tarfile.TarFile) -> io.BufferedIOBase:
        names = []
        for entry in stream:
            names.append(entry.name)
            content = stream.extractfile(entry) if entry.isfile() else None
            if content and PurePosixPath(entry.name).name == self.member:
                return cast(io.BufferedIOBase, content)
        raise DataError(
            f"{self.path}: expected a file {self.member} in the archive, found {', '.join(names) or 'nothing'}"
        )


def read_lines(file: TextFile, problems: Problems, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """The lines of a file, each with its number from 1 and its line end.

    A line that is not in `encoding` is a problem of its own; damaged compression is one problem, after the
    last whole line before it.
    """
    number = 0
    try:
        with file.open() as stream:
            for raw in stream:
                number += 1
                try:
                    text = raw.decode(encoding)
                except UnicodeDecodeError as error:
                    problems.bad(
                        "not UTF-8", f"{file}:{number}", f"byte {error.start} of the line is not {encoding}"
                    )
                    continue
                yield number, text.removeprefix("\ufeff") if number == 1 else text
    except DAMAGE as error:
        problems.bad(
            "damaged file",
            f"{file}:{number + 1}",
            f"damaged or truncated from here on ({error}), {number} lines before it could be read; "
            "fetch or copy the file again",
        )


def _buffered(packed: object) -> BinaryIO:
    # Decompressors hand out 8 KiB at a time, which costs a fifth of the reading speed.
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, packed), BUFFER))
