"""The plain state of a checkpoint, beside its arrays: what a stage must find there to go on."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from streamrec_dist.events import Count
from streamrec_dist.json_file import first_problem

Number = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _State(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class BestState(_State):
    """What Best.state gives."""

    step: int = Field(ge=-1, lt=2**63)
    misses: Count
    metrics: dict[str, Any]

    @model_validator(mode="after")
    def _measured(self) -> BestState:
        if self.step >= 0 and not isinstance(self.metrics.get("ndcg@10"), float | int):
            raise ValueError("metrics have no ndcg@10, by which the best is chosen")
        return self


class EpochsState(_State):
    """Of a stage or baseline that is trained by epochs."""

    epoch: Count
    seconds: Seconds
    best: BestState


class RoundsState(_State):
    """Of stage sft."""

    round: Count
    seconds: Seconds
    sampled_nll_first: Number | None
    sampled_nll_last: Number | None
    best: BestState


class StepsState(_State):
    """Of stage rl."""

    step: Count
    seconds: Seconds
    optimiser_steps: Count
    evaluated: list[Count]
    unjudged: list[Count] = []
    best: BestState


STATES: dict[str, type[_State]] = {"sft": RoundsState, "rl": StepsState}


def check_state(stage: str, state: Any) -> None:
    """Raise ValueError unless `state` is what a checkpoint of `stage`, or of a baseline, holds."""
    try:
        STATES.get(stage, EpochsState).model_validate(state)
    except ValidationError as error:
        raise ValueError(f"its state is none of stage {stage}: {first_problem(error)}") from None
