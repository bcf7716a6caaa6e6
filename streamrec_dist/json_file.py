"""JSON that may come from anybody: parsed without surprises, or read whole and checked against a type."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from streamrec_dist.errors import DataError

T = TypeVar("T")
Pairs = list[tuple[str, Any]]


def parse_json(text: str | bytes, pairs_hook: Callable[[Pairs], Any] | None = None) -> Any:
    """The value of a JSON text. Raises ValueError, of which json.JSONDecodeError is one, for anything else."""
    try:
        return json.loads(text, object_pairs_hook=pairs_hook)
    except RecursionError:
        raise ValueError("values are nested too deep") from None


def read_json(path: Path, kind: type[T], fix: str) -> T:
    """The content of a file, as a `kind` that pydantic can check.

    Raises DataError where it is missing, no JSON or no `kind`; it ends with `fix`, what to do then.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {fix}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); {fix}") from None
    except ValidationError as error:
        raise DataError(f"{path}: {first_problem(error)}; {fix}") from None


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found, in one line: where, and what."""
    problem = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]
