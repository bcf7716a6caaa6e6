"""Where a command works: the folder with cluster.yaml, its runs, and the run that is meant."""

from __future__ import annotations

from pathlib import Path

from cli.cluster import alive, find_record
from cli.record import ClusterRecord
from streamrec_dist.rundir import RunDir, newest_run


def runs_folder(start: Path | None = None) -> Path:
    """`runs/` beside the cluster's record, else beside the nearest cluster.yaml, else in this folder."""
    record = find_record(start)
    if record:
        return record.runs
    start = (start or Path.cwd()).absolute()
    root = next((folder for folder in (start, *start.parents) if (folder / "cluster.yaml").is_file()), start)
    return root / "runs"


def pick_run(name: str | None, runs: Path | None = None) -> RunDir:
    """The named run, or the newest. Raises UsageError when there is none."""
    runs = runs or runs_folder()
    return RunDir.find(runs, name) if name else newest_run(runs)


def living_cluster() -> ClusterRecord | None:
    """The cluster that is up, or None. Raises EnvironmentProblem where it is on another machine."""
    record = find_record()
    return record if record and alive(record) else None
