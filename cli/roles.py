"""Numbers of processes and of logs, as they are typed beside the name of a role, and how many a role may have."""

from __future__ import annotations

import re

from streamrec_dist.config import ActorsConfig, Config
from streamrec_dist.errors import ConfigError, UsageError

#: More than any cluster has use for. What finds no room waits, and Ray holds a place for each process that waits.
MOST_PROCESSES = 1_000
#: str.isdigit is true of ² too, and int refuses what is longer than 4,300 digits.
NUMBER = re.compile(r"[0-9]{1,18}")


def whole_number(text: str) -> int | None:
    """The number that was typed, or None where it is none."""
    return int(text) if NUMBER.fullmatch(text) else None


def check_scale(role: str, count: int) -> None:
    """Raise UsageError for more processes than a role may have."""
    if count > MOST_PROCESSES:
        raise UsageError(f"{role}={count}: a role has {MOST_PROCESSES:,} processes at most")


def check_processes(config: Config) -> None:
    """Raise ConfigError for a role that is to have more processes than it may."""
    asked = {
        f"actors.{role}.replicas": getattr(config.actors, role).replicas for role in ActorsConfig.model_fields
    }
    for key, count in {**asked, "learners.world_size": config.learners.world_size}.items():
        if count > MOST_PROCESSES:
            raise ConfigError(f"{key} is {count}, a role has {MOST_PROCESSES:,} processes at most; lower it")
