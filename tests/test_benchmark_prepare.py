"""The benchmark of `data prepare` on a size that takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPO


def test_it_measures_every_size_and_prints_one_object_last(tmp_path: Path):
    sizes = ["--interactions", "3000", "9000", "--folder", str(tmp_path), "--json"]
    command = [sys.executable, str(REPO / "benchmarks" / "prepare.py"), *sizes]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout.splitlines()[-1])["results"]
    assert [one["interactions"] for one in results] == [3000, 9000]
    for one in results:
        assert one["peak_rss"] > one["peak_anonymous"] > 0
        assert 0 < one["kept"]["interactions"] <= one["interactions"]
        assert sum(one["seconds_by_part"].values()) <= one["seconds"] + 0.1
    assert "times the interactions" in ran.stdout
    assert list(tmp_path.iterdir()) == [], "temporary data are removed"
