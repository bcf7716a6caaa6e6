"""Whether an Arrow or Parquet file is of plain types, told before a library makes anything of it.

A file may declare columns of "extension types", which any package of the process can have registered; to read one
calls that package. Ray Data registers a type whose values are pickles, so that a file could bring code to run.
"""

from __future__ import annotations

import base64
from pathlib import Path

from streamrec_dist.errors import DataError

_KEY = b"ARROW:extension:name"
#: The same in base64, as Parquet keeps Arrow's schema, at each of three offsets, without the ends that vary.
_ENCODED = tuple(base64.b64encode(bytes(offset) + _KEY)[4:-4] for offset in range(3))
#: What a file ends with, and before it the length of its footer: 4 bytes, little-endian.
_MAGIC = (b"PAR1", b"ARROW1")


def check_plain_types(path: Path) -> None:
    """Raise DataError where an Arrow or Parquet file declares an extension type.

    What is neither of the two is left to its reader to refuse. Raises OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 10))
        end = file.read()
        magic = next((magic for magic in _MAGIC if end.endswith(magic)), None)
        if magic is None:
            return
        length = int.from_bytes(end.removesuffix(magic)[-4:], "little")
        file.seek(max(0, size - len(magic) - 4 - length))
        footer = file.read()
    if any(key in footer for key in (_KEY, *_ENCODED)):
        raise DataError(
            f"{path}: has a column of an Arrow extension type, which only the package that it comes from can read; "
            "write it with plain texts and numbers"
        )
