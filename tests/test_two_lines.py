"""The two lines a user types in a fresh clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.processes import cluster_processes
from cli.record import read_record
from streamrec_dist.rundir import STAGES, newest_run
from tests.conftest import REPO, TINY, write_shop

pytestmark = pytest.mark.cluster

LINES = ("streamrec-dist up cluster.yaml", "streamrec-dist train --stage rl")
NOT_CLONED = shutil.ignore_patterns(
    ".git", ".venv", "runs", ".streamrec", "__pycache__", ".*_cache", "*.egg-info"
)


def test_the_two_lines(tmp_path: Path) -> None:
    clone = tmp_path / "streamrec-dist"
    shutil.copytree(REPO, clone, ignore=NOT_CLONED)
    # The default file trains for minutes; this one trains a tiny model on a few users.
    (clone / "cluster.yaml").write_text(TINY, encoding="utf-8")
    write_shop(clone / "shop")
    environment = {
        **os.environ,
        # The program of this environment, with the code of the clone.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
    }
    try:
        for line in LINES:
            typed = subprocess.run(
                line, shell=True, cwd=clone, env=environment, capture_output=True, text=True, timeout=400
            )
            assert typed.returncode == 0, f"$ {line}\n{typed.stderr}"
        record = read_record(clone)
        assert record is not None and newest_run(clone / "runs").finished_stages() == list(STAGES)
        assert "lacks tokenize, retrieve, pretrain, sft: they run first" in typed.stderr
    finally:
        down = subprocess.run(
            "streamrec-dist down", shell=True, cwd=clone, env=environment, capture_output=True, text=True
        )
    assert down.returncode == 0 and cluster_processes(record.cluster_id) == []
