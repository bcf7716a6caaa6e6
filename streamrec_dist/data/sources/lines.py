"""Text files read line by line, plain, gzipped or inside an archive; damage ends the file, not the program."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from streamrec_dist.data.events import Problems
from streamrec_dist.errors import DataError

CHUNK = 1 << 18
#: No record is longer. A packed file of a few bytes can unpack to a line that fills all memory.
LONGEST_LINE = 1 << 24
DAMAGE = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    tarfile.TarError,
    # What archives say of offsets, lengths, names and compressions that cannot be.
    NotImplementedError,
    OverflowError,
    ValueError,
    struct.error,
)


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
    def open(self) -> Iterator[io.BufferedIOBase]:
        """The unpacked bytes. Raises DataError where the archive has no such member, and DAMAGE."""
        if self.member:
            try:
                with self._opened() as packed:
                    yield packed
            except OSError as error:
                # What damaged bzip2 is to Python, and an offset before the beginning.
                raise EOFError(str(error)) from error
        elif self.path.suffix == ".gz":
            with gzip.open(self.path, "rb") as packed:
                yield packed
        else:
            with self.path.open("rb") as plain:
                yield plain

    @contextmanager
    def _opened(self) -> Iterator[io.BufferedIOBase]:
        if self.path.suffix == ".zip":
            with zipfile.ZipFile(self.path) as archive, self._in_zip(archive) as packed:
                yield packed
        else:
            with tarfile.open(self.path, "r|*") as stream:
                yield self._in_tar(stream)

    def _in_zip(self, archive: zipfile.ZipFile) -> io.BufferedIOBase:
        try:
            return cast(io.BufferedIOBase, archive.open(self.member))
        except (OSError, NotImplementedError, RuntimeError) as error:
            # A damaged directory shows as an impossible offset, an unknown compression, or encryption.
            raise zipfile.BadZipFile(f"{self.member} cannot be opened: {error}") from error

    def _in_tar(self, stream: tarfile.TarFile) -> io.BufferedIOBase:
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
    """The lines of a file, each with its number from 1, without the line end.

    A line that is not in `encoding` is a problem of its own; damaged compression is one problem, after the
    last whole line before it.
    """
    number = 0
    try:
        with file.open() as stream:
            for raw in _lines(stream):
                number += 1
                try:
                    text = raw.removesuffix(b"\r").decode(encoding)
                except UnicodeDecodeError as error:
                    problems.bad(
                        "not_utf8", f"{file}:{number}", f"byte {error.start} of the line is not {encoding}"
                    )
                    continue
                yield number, text.removeprefix("\ufeff") if number == 1 else text
    except DAMAGE as error:
        problems.bad(
            "damaged_file",
            f"{file}:{number + 1}",
            f"damaged or truncated from here on ({error}), {number} lines before it could be read; "
            "fetch or copy the file again",
        )


def _lines(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """The lines of a stream without their newlines."""
    rest = b""
    # read1 hands out what was unpacked before it raises, read and the lines of a decompressor do not.
    while chunk := stream.read1(CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) > LONGEST_LINE:
            raise EOFError(f"a line of more than {LONGEST_LINE} bytes")
    if rest:
        yield rest
