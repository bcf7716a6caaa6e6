"""How one evaluation or recommendation is to be decoded, where that differs from the run's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamrec_dist.baselines.config import SCORES_ITEMS
from streamrec_dist.config import Config
from streamrec_dist.errors import UsageError
from streamrec_dist.rundir import RunDir
from streamrec_dist.stages.decoding import DIRECT, decoding_of, plan_of
from streamrec_dist.stages.evaluate import BASELINES


@dataclass(frozen=True)
class DecodingOptions:
    """The options --thoughts, --samples and --beam; None: as the run's stages.evaluate says."""

    thoughts: str | None = None
    samples: int | None = None
    beam: int | None = None

    def config(self, run: RunDir, stage: str) -> Config:
        """The run's configuration with these on top. Raises UsageError for one that `stage` has no use for."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        config = run.config([f"stages.evaluate.{name}={value}" for name, value in given.items()])
        if given and decoding(stage, config) is None:
            raise UsageError(f"--{next(iter(given))}: {stage} decodes nothing; leave it out")
        thinking = sorted(given.keys() & {"thoughts", "samples"}, reverse=True)
        if thinking and stage in (*DIRECT, "pretrain"):
            what = "decodes items directly" if stage in DIRECT else "decodes retrieved items, always greedily"
            raise UsageError(f"--{thinking[0]}: the model of stage {stage} {what}; only sft and rl think")
        if self.samples is not None and config.stages.evaluate.thoughts != "sampled":
            raise UsageError(
                f"--samples {self.samples} needs --thoughts sampled; now they are {config.stages.evaluate.thoughts}"
            )
        return config


def decoding(stage: str, config: Config) -> dict[str, Any] | None:
    """How a stage's model decodes under a configuration; None for what scores items."""
    if stage in BASELINES or stage in SCORES_ITEMS:
        return None
    return decoding_of(plan_of(stage, config), config.stages.evaluate.beam)


def suffix(decoding: dict[str, Any] | None) -> str:
    """A way of decoding as part of a file's name, such as `-sampled8-beam20`."""
    if decoding is None:
        return ""
    thoughts = "" if decoding["thoughts"] == "none" else f"-{decoding['thoughts']}{decoding['samples'] or ''}"
    return f"{thoughts}-beam{decoding['beam']}"
