"""The results that `evaluate` has left in a run: measures with intervals, checked, for the files may be anybody's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from streamrec_dist.errors import DataError
from streamrec_dist.events import Count
from streamrec_dist.json_file import read_json
from streamrec_dist.metrics import MEASURES
from streamrec_dist.ranks import Decoding
from streamrec_dist.rundir import RunDir

#: Files beyond these are not read.
MOST_RESULTS = 500

Share = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[list[Share], Field(min_length=2, max_length=2)]


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True)


class Measured(_Checked):
    """A measure and its 95 % interval."""

    value: Share
    interval: Interval


class Group(_Checked):
    """Some of the targets."""

    targets: Count
    ndcg: Share | None = Field(alias="ndcg@10")
    interval: Interval | None = Field(alias="ndcg@10_ci")


Measures = dict[str, Measured]


class Result(_Checked):
    """One evaluation: each of MEASURES, those of the counting baseline on the same targets, and those of groups."""

    name: str = ""
    run: str
    stage: str
    split: Literal["valid", "test"]
    masked: bool
    decoding: Decoding | None
    users: Count
    targets: Count
    synthetic: bool
    measures: Measures
    counting: Measures
    by: dict[str, dict[str, Group]]
    counting_by: dict[str, dict[str, Group]]

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, body: Any) -> Any:
        """Put what the file has side by side into `measures`."""
        if not isinstance(body, dict) or not isinstance(body.get("counting"), dict):
            raise ValueError("a result has measures of its own and of the counting baseline")
        counting = body["counting"]
        return {
            **body,
            "measures": _measures(body),
            "counting": _measures(counting),
            "counting_by": counting.get("by"),
        }

    @property
    def setting(self) -> tuple[str, bool, int, int]:
        """What results must share to be set beside each other."""
        return self.split, self.masked, self.users, self.targets


def _measures(body: dict[str, Any]) -> dict[str, Any]:
    return {name: {"value": body.get(name), "interval": body.get(f"{name}_ci")} for name in MEASURES}


@dataclass(frozen=True)
class Results:
    """All results of a run by name, and what is to be said of files that could not be read."""

    found: list[Result]
    notes: list[str]


def results_of(run: RunDir) -> Results:
    """The results of a run, in the order of their names.

    A result is a JSON file with the ranks of all targets beside it; what else lies there is nobody's business here.
    """
    found, notes = [], []
    paths = sorted((run.path / "results").glob("*.json"))
    paths = [path for path in paths if path.with_suffix(".parquet").is_file()]
    for path in paths[:MOST_RESULTS]:
        try:
            result = read_json(path, Result, "evaluate again")
        except DataError as error:
            notes.append(str(error))
        else:
            found.append(result.model_copy(update={"name": path.stem}))
    if len(paths) > MOST_RESULTS:
        notes.append(f"of {len(paths)} results the first {MOST_RESULTS} are shown")
    return Results(found, notes)
