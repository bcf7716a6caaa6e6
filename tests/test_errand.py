"""What is asked of a cluster by a process of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from cli.dashboard.pages import LogPage
from cli.dashboard.panels.workers import Worker
from cli.errand import Errand
from streamrec_dist.summary import RunSummary
from tests.drawn import scene_of, screen


def answers(errand: Errand, seconds: float = 30) -> list[dict[str, Any]]:
    """All that it tells until it is over."""
    give_up = time.monotonic() + seconds
    while not errand.over and time.monotonic() < give_up:
        time.sleep(0.05)
    assert errand.over
    return list(errand.told())


@pytest.mark.parametrize("task", [("alive",), ("stop",), ("log", "rollout", "head", "7")])
def test_without_a_cluster_that_is_what_is_answered(tmp_path: Path, task: tuple[str, ...]) -> None:
    (told,) = answers(Errand(tmp_path / "runs" / "demo", *task))
    assert told == {
        "error": f"no cluster in {tmp_path} or above it; start one with: streamrec-dist up cluster.yaml"
    }


def test_a_folder_of_the_user_is_not_taken_for_our_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "__init__.py").write_text("raise SystemExit('not ours')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (told,) = answers(Errand(tmp_path / "runs" / "demo", "alive"))
    assert "no cluster" in told["error"]


def test_one_that_is_not_wanted_any_more_is_ended(tmp_path: Path) -> None:
    errand = Errand(tmp_path / "runs" / "demo", "alive", lasting=True)
    errand.end()
    assert errand.over and list(errand.told()) == []
    errand.end()


def test_what_is_no_answer_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library may print what it likes."""
    package = tmp_path / "loud"
    package.mkdir()
    (package / "sitecustomize.py").write_text("print('a warning')\nprint('[1]')\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(package))
    (told,) = answers(Errand(tmp_path / "runs" / "demo", "alive"))
    assert "no cluster" in told["error"]


def test_a_log_is_shown_from_its_end_and_scrolled(tmp_path: Path) -> None:
    page = LogPage(tmp_path / "runs" / "demo", Worker("rollout", 1, "head", 7, "ready", None, None, None, 0))
    scene = scene_of(RunSummary("demo"), 0)
    assert "the log is being looked for ..." in screen(scene, 80, 6, page)
    answers(page.errand)
    page.text.extend(f"line {number} \x1b[31m" for number in range(20))
    first, *rows = screen(scene, 80, 6, page).split("\n")
    assert first.startswith("── log of rollout 1, process 7 on head ─")
    assert [row.rstrip() for row in rows] == [f"line {number} \ufffd[31m" for number in range(15, 20)]
    for keys, last in ((["up"] * 3, 16), (["page up"] * 2, 4), (["page down", "up"], 18)):
        for key in keys:
            page.press(key, scene)
        assert screen(scene, 80, 6, page).split("\n")[-1].startswith(f"line {last} ")
    page.close()
