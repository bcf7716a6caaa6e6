"""Fixtures: a folder with a configuration, and one with a cluster that the command line has started."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

# Threads that wait for one another make tests slow on a busy machine.
torch.set_num_threads(1)

REPO = Path(__file__).parents[1]
SHARED_DATA = REPO.parent / "shared" / "data"

#: Small enough that a whole run takes seconds.
TINY = """\
seed: 3
cluster: {cpus: 2}
data: {format: csv, path: shop, max_history: 8}
items: {levels: 3, codes: 16, neighbours: 8}
model: {d_model: 32, layers: 1, heads: 2, d_head: 16, d_ff: 64, precision: fp32}
stages:
  tokenize: {epochs: 20, batch: 64, latent: 8, hidden: [32]}
  retrieve: {epochs: 2, batch: 64, d_model: 16, folds: 2, eval_users: 40}
  pretrain: {epochs: 2, batch: 64, eval_users: 40}
  sft: {thoughts: 2, rounds: 2, epochs: 1, batch: 64, eval_users: 40, annotate_batch: 64, calibration: 10}
  rl: {steps: 4, prompts: 8, group_size: 4, negatives: 8, similarity_items: 16, eval_every: 2, eval_users: 40}
  evaluate: {beam: 5, batch: 32}
baselines:
  sasrec: {epochs: 2, batch: 64, d_model: 16, eval_users: 40}
  sasrec_bce: {epochs: 2, batch: 64, d_model: 16, eval_users: 40}
  gru4rec: {epochs: 2, batch: 64, d_model: 16, hidden: 16, eval_users: 40}
  tiger: {epochs: 2, batch: 64, eval_users: 40}
"""


class ByFile(LoadScopeScheduling):
    """How `pytest -n 2` deals tests out: every file in one piece, and all that starts Ray clusters in two.

    Two clusters at once starve each other on two cores, but those whose tests wait until something is noticed: they
    are a piece of their own, which comes last, for it has the fewest tests.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        marked = CLUSTER.search((REPO / file).read_text(encoding="utf-8"))
        return marked[0] if marked else file


#: How a file says that its tests start a cluster, and that they wait for much of their time.
CLUSTER = re.compile(r"pytest\.mark\.cluster(\(waits=True\))?")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="remake the screens in tests/goldens")


def run_cli(
    *arguments: str, cwd: Path, timeout: float = 180, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Type a streamrec-dist command in a folder, with `variables` added to the environment."""
    program = [sys.executable, "-m", "cli.app", *arguments]
    # The folder is not the checkout, so the code under test is named here.
    environment = {**os.environ, "PYTHONPATH": str(REPO), "NO_COLOR": "1", "COLUMNS": "120", "TERM": "dumb"}
    # Ray's workers step back for every other process, and those of the other tests would leave them nothing.
    environment["RAY_worker_niceness"] = "0"
    environment |= variables or {}
    return subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


def end_controller(root: Path, run: str) -> None:
    """End the controller of a run for good, as nothing but a person does: Ray does not start it again."""
    program = f"""
from pathlib import Path
from cli import cluster
from cli.asking import controller_name
cluster.connect(cluster.find_cluster(), to_work=False)
import ray
ray.kill(ray.get_actor(controller_name(Path("runs/{run}"))))
"""
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, check=True, timeout=120)


def last_json(result: subprocess.CompletedProcess[str]) -> dict:
    """The object on the last line of stdout."""
    return json.loads(result.stdout.splitlines()[-1])


def write_shop(folder: Path) -> None:
    """A CSV data set of 60 items and 80 users, each of whom walks through the items in steps of one or two."""
    folder.mkdir()
    kinds = ("lamp", "chair", "table", "shelf", "clock", "vase")
    titles = [
        f"{kinds[item % 6]} number {item // 6} for the {('kitchen', 'office')[item % 2]}"
        for item in range(60)
    ]
    lines = [f"i{item},{title}" for item, title in enumerate(titles)]
    (folder / "items.csv").write_text("\n".join(["item,title", *lines]) + "\n", encoding="utf-8")
    walks = [(user, (7 * user + place * (1 + user % 2)) % 60) for user in range(80) for place in range(6)]
    rows = [f"u{user},i{item}" for user, item in walks]
    (folder / "interactions.csv").write_text("\n".join(["user,item", *rows]) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tiny configuration and its data, and no cluster."""
    (tmp_path / "cluster.yaml").write_text(TINY, encoding="utf-8")
    write_shop(tmp_path / "shop")
    return tmp_path


@pytest.fixture(scope="module")
def cluster_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a tiny configuration, its data, and a cluster that is up."""
    root = tmp_path_factory.mktemp("cluster")
    (root / "cluster.yaml").write_text(TINY, encoding="utf-8")
    write_shop(root / "shop")
    try:
        started = run_cli("up", "cluster.yaml", cwd=root)
        assert started.returncode == 0, started.stderr
        yield root
    finally:
        run_cli("down", cwd=root)
