"""Curves in the terminal and in pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from cli.app import app
from cli.curves import Curve, charts
from cli.terminal_chart import BRAILLE, chart
from streamrec_dist.config import Config
from streamrec_dist.course import Course
from streamrec_dist.events import Event, EventLog
from streamrec_dist.rundir import RunDir

HARMFUL = "[red]kl\x1b[31m\x07"


def curve(values: list[float], metric: str = "loss", stage: str = "rl", first: int = 1) -> Curve:
    course = Course()
    for step, value in enumerate(values, start=first):
        course.add(step, value)
    return Curve.of("demo", stage, metric, course, 500)


def area(picture: str) -> list[str]:
    """The rows of a chart right of its axis."""
    return [line.partition("┤")[2] for line in picture.splitlines() if "┤" in line]


def heights(picture: str, columns: int) -> list[float]:
    """The height of the highest dot of each braille column, from 0 to 1; whole columns of dots."""
    rows = [row.ljust(columns) for row in area(picture)]
    dots = np.zeros((4 * len(rows), 2 * columns), dtype=bool)
    for place, row in enumerate(rows):
        for column, sign in enumerate(row):
            code = ord(sign) - BRAILLE if sign != " " else 0
            for bit, (down, across) in enumerate(
                [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]
            ):
                dots[4 * place + down, 2 * column + across] |= bool(code >> bit & 1)
    assert dots.any(axis=0).all(), "the line has gaps"
    return (1 - dots.argmax(axis=0) / (len(dots) - 1)).tolist()


def test_a_line_rises_as_its_values_do() -> None:
    values = [0.1 * step for step in range(200)]
    picture = chart([curve(values)], ["loss"], 80, 12).plain
    lines = picture.splitlines()
    assert len(lines) == 1 + 12 + 2 and max(map(len, lines)) <= 80
    assert lines[0] == "━ loss  last 19.90"
    found = heights(picture, 69)
    assert found == sorted(found) and found[0] <= 1 / 47 and found[-1] == 1
    np.testing.assert_allclose(found, np.linspace(0, 1, len(found)), atol=0.03)
    assert [lines[row][:9].strip() for row in (1, 6, 12)] == ["19.90", "10.85", "0"]
    assert lines[-1].split() == ["step", "1", "100", "200"]


def test_a_peak_and_a_jump_are_seen_in_one_piece() -> None:
    picture = chart([curve([0.0] * 50 + [1.0] + [0.0] * 49)], ["loss"], 60, 8).plain
    found = heights(picture, 49)
    assert max(found) == 1 and sorted(found)[len(found) // 2] == 0


def test_without_colours_curves_have_marks_of_their_own() -> None:
    both = [curve([1.0, 2.0, 3.0]), curve([3.0, 2.0, 1.0], "kl")]
    plain = chart(both, ["loss", "kl"], 40, 6, coloured=False)
    assert "* loss" in plain.plain and "+ kl" in plain.plain and "⣿" not in plain.plain
    rows = area(plain.plain)
    assert rows[0][0] == "+" and rows[-1][0] == "*"
    coloured = chart(both, ["loss", "kl"], 40, 6)
    assert {span.style for span in coloured.spans} == {"cyan", "yellow"}
    ascii_only = chart(both, ["loss", "kl"], 40, 6, ascii_only=True).plain
    assert ascii_only.isascii()


@pytest.mark.parametrize("values", [[2.0], [2.0] * 9, [0.0], [-1e100, 1e100], [1e-300, 2e-300]])
@pytest.mark.parametrize("width", [20, 200])
def test_whatever_the_values_are_there_is_a_chart(values: list[float], width: int) -> None:
    picture = chart([curve(values)], ["loss"], width, 5).plain
    assert max(map(len, picture.splitlines())) <= max(width, 21) and any(row.strip() for row in area(picture))


def test_a_name_of_several_lines_breaks_no_chart() -> None:
    picture = chart([curve([1.0, 2.0])], ["lo\nss\x1b[31m"], 40, 5).plain
    assert picture.splitlines()[0].startswith("━ lo ss") and "\x1b" not in picture


def test_curves_share_a_chart_where_each_can_still_be_seen() -> None:
    share = curve([0.0, 0.4], "share/a"), curve([0.1, 0.9], "share/b"), curve([0.2, 0.2], "share/c")
    tall, other = curve([0.0, 1000.0], "tokens_per_s"), curve([0.0, 0.4], "share/a", stage="sft")
    found = [[(one.stage, one.metric) for one in group] for group in charts([*share, tall, other])]
    assert found == [
        [("rl", "share/a"), ("rl", "share/b"), ("rl", "share/c")],
        [("rl", "tokens_per_s")],
        [("sft", "share/a")],
    ]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs; the second has its first stage from elsewhere."""
    for name, slope in (("one", 1.0), ("two", 2.0)):
        run = RunDir.create(tmp_path / "runs", name, Config())
        steps = [
            Event("step", "rl", step, metrics={"reward/total": slope * step, "kl": 0.5, HARMFUL: 1.0})
            for step in range(1, 31)
        ]
        judged = Event("eval", "rl", 30, split="valid", metrics={"ndcg@10": 0.25})
        EventLog(run.events_path).append([*steps, judged])
    taken = [Event("stage", "sft", state="started"), Event("step", "sft", 1, metrics={"loss": 3.0})]
    EventLog(run.inherited_path).append(taken)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1"}).invoke(app, ["plot", *arguments])


def test_all_metrics_are_listed_by_stage(root: Path) -> None:
    shown = typed("two")
    assert shown.exit_code == 0, shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["rl", "reward/total", "2", "60"] in rows and ["sft", "loss", "3", "3"] in rows
    assert ["rl", "ndcg@10", "0.2500", "0.2500"] in rows
    assert "\x1b" not in shown.stdout and "[red]kl\ufffd[31m" in shown.stdout
    body = json.loads(typed("two", "--json").stdout)
    assert set(body["metrics"]) == {"rl", "sft"} and body["metrics"]["sft"] == ["loss"]


def test_metrics_are_drawn_by_name_and_by_pattern(root: Path) -> None:
    shown = typed("one", "reward/*", "kl")
    assert shown.exit_code == 0, shown.stderr
    assert "stage rl" in shown.stdout and "reward/total  last 30" in shown.stdout
    assert "kl  last 0.5000" in shown.stdout and max(map(len, shown.stdout.splitlines())) <= 80
    both = typed("one", "reward/total", "--with", "two")
    assert "* reward/total, one  last 30" in both.stdout and "+ reward/total, two  last 60" in both.stdout
    exact = json.loads(typed("one", "reward/total", "--with", "two", "--json").stdout)["curves"]
    assert [one["run"] for one in exact] == ["one", "two"]
    assert exact[1]["means"] == [2.0 * step for step in range(1, 31)] == exact[1]["highs"]


def test_what_there_is_not_is_told_with_what_is_like_it(root: Path) -> None:
    refused = typed("one", "reward/totl")
    assert refused.exit_code == 2 and "did you mean reward/total?" in refused.stderr
    assert "streamrec-dist plot one" in refused.stderr
    assert typed("one", "kl", "--out", "x.bmp").exit_code == 2
    assert "nothing of stage retrieve" in typed("one", "--stage", "retrieve").stderr
    assert "no metric 'loss'" in typed("two", "loss", "--stage", "rl").stderr


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")])
def test_pictures_are_written(root: Path, name: str, start: bytes) -> None:
    done = typed("one", "reward/total", "kl", HARMFUL, "--with", "two", "--out", name)
    assert done.exit_code == 0 and done.stdout.strip() == name, done.stderr
    assert (root / name).read_bytes().startswith(start)
    if name.endswith("png"):
        with Image.open(name) as picture:
            assert picture.width == 2160 and picture.convert("L").getextrema() != (255, 255)
