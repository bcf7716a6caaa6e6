"""From raw data to a validated, saved dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streamrec_dist.data.build import build, validate
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.demo import demo_catalogue
from streamrec_dist.data.events import OnError, Problems
from streamrec_dist.data.files import load_dataset, save_dataset, write_dataset
from streamrec_dist.data.formats import DEMO
from streamrec_dist.data.readers import open_source
from streamrec_dist.data.recipes import Recipe
from streamrec_dist.data.workplace import Workplace
from streamrec_dist.errors import ConfigError


def prepare(
    path: Path | None,
    fmt: str,
    out: Path,
    seed: int = 0,
    recipe: Recipe | None = None,
    on_error: OnError = "stop",
    say: Callable[[str], None] = lambda part: None,
) -> Dataset:
    """Reads `path` ("demo" makes its catalogue from `seed` instead), filters, validates, saves to `out`, loads that.

    Without a `recipe` everything counts and the split is leave-one-out. `say` is called with the name of each part
    as it begins. Raises ConfigError for a wrong format or path, DataError naming file and line or record for data
    that cannot be used; `out` stays as it was then.
    """
    if fmt == DEMO:
        if path is not None:
            raise ConfigError(
                f"data format demo reads no files, but a path is given: {path}; remove the path"
            )
        save_dataset(validate(demo_catalogue(seed=seed), recipe), out)
        return load_dataset(out)
    source = open_source(path, fmt)
    with Workplace(out) as workplace:
        dataset = build(source, recipe or Recipe(fmt), Problems(on_error), workplace.folder, say)
        say("writing")
        write_dataset(dataset, workplace)
    return load_dataset(out, verify=False)
