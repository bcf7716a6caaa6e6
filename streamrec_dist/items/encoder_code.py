"""Whether the folder of a text encoder names code of its own, which loading it would run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamrec_dist.errors import EnvironmentProblem
from streamrec_dist.json_file import parse_json

#: Where sentence-transformers looks up the classes of a model's parts, by dotted names.
_LISTS = ("modules.json", "router_config.json")
_PACKAGE = "sentence_transformers."


def check_no_code(folder: Path) -> None:
    """Raise EnvironmentProblem where a part of a model is a class from outside sentence-transformers.

    Some versions of that package import such a class from the folder itself, unasked. Code that configurations of
    transformers name (`auto_map`) is refused by its own trust_remote_code=False.
    """
    for path in (path for name in _LISTS for path in sorted(folder.rglob(name))):
        try:
            listed = parse_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise EnvironmentProblem(f"{path}: not valid JSON ({error}); fetch the encoder again") from None
        for name in _classes(listed):
            if not (isinstance(name, str) and name.startswith(_PACKAGE)):
                raise EnvironmentProblem(
                    f"{path}: names the class {name!r:.80}, code that does not come with sentence-transformers and "
                    "is never run here; use another items.encoder"
                )


def _classes(listed: Any) -> Iterator[Any]:
    if isinstance(listed, list):
        yield from (part.get("type") for part in listed if isinstance(part, dict))
    elif isinstance(listed, dict):
        types = listed.get("types", {})
        yield from types.values() if isinstance(types, dict) else [types]
