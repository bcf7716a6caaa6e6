"""Errors a user can act on. Each class carries the exit code the command line ends with."""

from __future__ import annotations

import re

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class StreamRecError(Exception):
    """An error whose message tells the user what happened, where, and what to do."""

    exit_code = 1


class RunError(StreamRecError):
    """The work was well-formed but failed."""


class WorkerLost(RunError):
    """A process that took part in a stage died; the stage can go on from its last checkpoint."""


class InputLost(WorkerLost):
    """What a worker was to work on went with the process or node that had made it; it can be made again."""


class UsageError(StreamRecError):
    """Wrong use of a command or function."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value is missing, unknown or out of range."""


class DataError(UsageError):
    """Input data cannot be used; the message names the file and the line or record."""


class EnvironmentProblem(StreamRecError):
    """The machine lacks something: a cluster, a package, model weights, a device."""

    exit_code = 3


def summary(error: BaseException) -> str:
    """One line of an error that may carry a whole remote traceback: what it says first, and its cause last.

    Of a task's traceback only the cause: its first line names a process.
    """
    lines = [line.strip() for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("ray::"):
        return lines[-1]
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
