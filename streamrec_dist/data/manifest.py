"""dataset.json: what is in a prepared dataset, how it was made, and the hash of every part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from streamrec_dist.data.content import combined_hash
from streamrec_dist.data.workplace import FILES, MANIFEST
from streamrec_dist.errors import DataError
from streamrec_dist.json_file import read_json

LAYOUT = 2
#: The folder of the parts is one that Workplace.files_name gives: never one elsewhere.
FOLDER = rf"^{FILES}[0-9a-f]{{12}}(-[0-9]{{1,3}})?$"
ANEW = "prepare the data again (streamrec-dist data prepare)"

PARTS = frozenset({"interactions", "items", "users"})
OPTIONAL = frozenset({"times"})


@dataclass(frozen=True)
class _Layout:
    layout: int


@dataclass(frozen=True)
class Manifest:
    """`content` has the SHA-256 of each part, `bytes` the size of its file, in the folder `files`."""

    name: str
    synthetic: bool
    recipe: dict[str, Any]
    figures: dict[str, Any]
    notes: dict[str, int]
    problems: dict[str, int]
    examples: list[str]
    content: dict[str, str]
    content_hash: str
    files: Annotated[str, Field(pattern=FOLDER)]
    bytes: dict[str, int]
    layout: int = LAYOUT


def read_manifest(directory: Path) -> Manifest:
    """The content of dataset.json. Raises DataError when it is missing, damaged, or of another layout."""
    path = Path(directory) / MANIFEST
    if not path.exists():
        raise DataError(f"{path} is missing: prepare the data first (streamrec-dist data prepare)")
    layout = read_json(path, _Layout, ANEW).layout
    if layout != LAYOUT:
        raise DataError(f"{path}: a dataset of layout {layout}, expected layout {LAYOUT}; {ANEW}")
    manifest = read_json(path, Manifest, ANEW)
    parts = manifest.content.keys()
    if parts != manifest.bytes.keys() or not PARTS <= parts <= PARTS | OPTIONAL:
        raise DataError(f"{path}: expected the parts {', '.join(sorted(PARTS))} and perhaps times; {ANEW}")
    if manifest.content_hash != combined_hash(manifest.content):
        raise DataError(f"{path}: content_hash does not follow from its parts; {ANEW}")
    return manifest
