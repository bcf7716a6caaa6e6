"""Files of named arrays: safetensors, written whole or not at all, and checked when they are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from streamrec_dist.errors import DataError


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file so that readers see the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, unfinished)
    os.replace(unfinished, path)


def load_arrays(path: Path, fix: str = "") -> dict[str, np.ndarray]:
    """All arrays of a file. Nothing in it is executed, whatever it holds.

    Raises DataError where it is missing, damaged, or has a number that is not finite, which none of our files has;
    it ends with `fix`, what to do then, if anything.
    """
    end = f"; {fix}" if fix else ""
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: damaged or missing ({error}){end}") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # How the library meets types that numpy lacks, such as bfloat16.
        raise DataError(f"{path}: holds arrays of a type that we do not write ({error}){end}") from None
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"{path}: {name} holds {array.dtype}, which we do not write{end}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{path}: {name} has numbers that are not finite{end}")
    return arrays
