"""The benchmark of events on a size that takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPO


def test_it_opens_a_run_of_any_size_and_leaves_nothing_behind(tmp_path: Path) -> None:
    sizes = ["--repeats", "0", "--events", "3000", "--folder", str(tmp_path), "--json"]
    command = [sys.executable, str(REPO / "benchmarks" / "events.py"), *sizes]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    (found,) = json.loads(ran.stdout.splitlines()[-1])["runs"]
    assert found["events"] == 3000 and found["events_bytes"] > 3000 * 200 and found["summary_bytes"] > 1000
    for name in ("watch", "watch_alone", "report", "report_alone", "store", "store_alone", "parquet"):
        assert 0 <= found[name]["seconds"] < 60 and 20 < found[name]["peak_mib"] < 2000
    assert list(tmp_path.iterdir()) == [], "temporary data are removed"
