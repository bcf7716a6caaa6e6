"""Files that may be gzipped, read whole; what a small one unpacks to is bounded."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from streamrec_dist.errors import DataError

#: JSON of ids and texts packs to a fifth or a tenth. gzip allows a thousandth, and so a file that fills all memory.
MOST_FOLD, ALWAYS_ALLOWED = 100, 1 << 26
CHUNK = 1 << 20
DAMAGE = (gzip.BadGzipFile, EOFError, zlib.error)


def read_text(path: Path) -> str:
    """A file as text, unpacked where its name ends in .gz.

    Raises DataError where it is missing, damaged, no UTF-8, or unpacks to more than MOST_FOLD times its size.
    """
    try:
        raw = path.read_bytes()
        return (_unpacked(path, raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except DAMAGE as error:
        raise DataError(f"{path}: damaged or truncated gzip ({error}); copy the file again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _unpacked(path: Path, raw: bytes) -> bytes:
    most, parts, size = max(ALWAYS_ALLOWED, MOST_FOLD * len(raw)), [], 0
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
        while part := stream.read(CHUNK):
            size += len(part)
            if size > most:
                raise DataError(
                    f"{path}: its {len(raw)} bytes unpack to more than {most}, as no data do; unpack it yourself "
                    "if you trust it"
                )
            parts.append(part)
    return b"".join(parts)
