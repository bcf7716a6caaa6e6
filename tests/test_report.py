"""The report of a run: what it says, that nothing in it can do harm, and what a browser makes of it."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import streamrec_dist.summary_file
from cli.app import app
from cli.report.facts import gather
from cli.report.groups import grouped
from cli.report.making import make_report
from cli.report.page import short, visible
from cli.report.theme import THEME
from cli.report.utilisation import WAITING, utilisation
from cli.report.verdict import Tone, figures, health, lines
from streamrec_dist.config import Config, RewardWeights
from streamrec_dist.course import Course
from streamrec_dist.events import Event, EventLog
from streamrec_dist.rl.ledger import ledger
from streamrec_dist.rundir import RunDir
from streamrec_dist.summary import RunSummary
from streamrec_dist.summary_file import keep_summary, summarised
from tests.browser import Browser, chromium
from tests.reported import CONTROLS, HARMFUL, MARKUP, STEPS, reported_run, step_metrics

PICTURES = {
    "evaluation",
    "validation",
    "test-time-scaling",
    "reward-ledger",
    "staleness",
    "utilisation",
    "rounds",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return reported_run(tmp_path_factory.mktemp("reported"))


@pytest.fixture(scope="module")
def page(run: RunDir) -> Path:
    """Its report, made once."""
    return make_report(run, 4)[0]


class Reader(html.parser.HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


def test_metrics_of_folds_are_looked_at_by_fold() -> None:
    own = ["loss", "lr", "epoch", "grad_norm", "seconds", "ndcg@10", "kl"]
    folds = [f"fold-{fold}/{name}" for fold in (2, 10, 1) for name in ("lr", "loss", "odd")]
    found = grouped([*own, *folds, "fold-3/fold-4/loss"])
    assert list(found) == [
        "losses",
        "validation",
        "policy",
        "optimiser",
        "throughput",
        "others",
        "fold 1",
        "fold 2",
        "fold 10",
    ]
    assert found["fold 10"] == ["fold-10/loss", "fold-10/lr", "fold-10/odd"]
    assert found["others"] == ["epoch", "fold-3/fold-4/loss"]


def test_the_page_needs_nothing_else_and_runs_nothing(page: Path) -> None:
    found = Reader(page.read_text(encoding="utf-8"))
    assert not {tag for tag, _ in found.tags} & {"script", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert sum(tag == "img" for tag, _ in found.tags) > len(PICTURES)
    styles = page.read_text(encoding="utf-8").partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in styles and "@import" not in styles


def test_text_of_a_run_is_shown_and_never_obeyed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    shown = Reader(text).text
    assert MARKUP in shown and "<script" not in text
    assert "49&amp" not in shown, "what looks like a template is none"
    assert not {char for char in shown if ord(char) < 32 and char not in "\n\t"}
    assert "\x85" not in shown and "\u202e" not in shown
    assert "\u241b[31mred\u2407\u2400" in shown and "\u27e8U+202E\u27e9" in shown
    assert "\u05e9\u05dc\u05d5\u05dd" in shown and "\U0001f468\u200d\U0001f469" in shown
    assert "endless" * 100 not in shown


def test_every_section_is_filled(run: RunDir, page: Path) -> None:
    shown = " ".join(Reader(page.read_text(encoding="utf-8")).text.split())
    for words in (
        "Reward likelihood decides nearly alone (90 % of the advantage).",
        "The total reward went from 0.045 to 0.365",
        "valid split, 80 users, history allowed",
        "met by all",
        "dominates",
        "4 sampled",
        "NDCG@10 .0300 [.0200 .0400]",
        "rollout actors adopt 5 % generate 75 % waiting 20 %",
        "learner ranks forward 20 % backward 30 % waiting 50 %",
        "level 1, code",
        "model.d_model",
        "torch 2.9",
        "nested.a",
    ):
        assert words in shown, words
    examples = shown.partition("Of 64 users drawn by the seed, ")[2]
    assert examples and shown.count("Ten best") == 4


def test_the_pictures_lie_beside_it(run: RunDir, page: Path) -> None:
    found = {path.stem: path for path in page.parent.glob("*.png")}
    assert set(found) >= PICTURES and sum(name.startswith("curves-") for name in found) >= 8
    for path in found.values():
        with Image.open(path) as picture:
            assert picture.width == 2160 and picture.height > 200
            assert picture.convert("L").getextrema()[0] < 100, f"{path} is empty"


def test_a_run_that_has_hardly_begun_has_a_report_too(tmp_path: Path) -> None:
    begun = RunDir.create(tmp_path, "begun", Config())
    page, notes = make_report(begun, 2)
    assert "not begun" in page.read_text(encoding="utf-8")
    assert len(notes) == 1 and "no trained model yet" in notes[0]
    (page.parent / "evaluation.png").touch()
    EventLog(begun.events_path).append([Event("run", state="failed", message=MARKUP)])
    page, _ = make_report(begun, 0)
    assert f"The run failed: {MARKUP}" in Reader(page.read_text(encoding="utf-8")).text
    assert list(page.parent.iterdir()) == [page], "nothing is left of the report before"


def test_of_events_that_are_summarised_none_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: what is read does not grow with them."""
    long = RunDir.create(tmp_path, "long", Config())
    names = [f"{kind}/{name}" for kind in ("reward", "spread") for name in ("likelihood", "total")]
    wanted = (*names, "share/likelihood")
    told = [(step, step_metrics(step)) for step in range(1, STEPS + 1)]
    steps = [
        Event("step", "rl", step, STEPS, metrics={name: metrics[name] for name in wanted})
        for step, metrics in told
    ]
    covered = EventLog(long.events_path).append(steps)
    keep_summary(long, summarised(long)[0], covered)
    EventLog(long.events_path).append([Event("warning", message="one more")])
    whole_lines, read = streamrec_dist.summary_file.whole_lines, []

    def spied(path, offset, end=None):
        for data, at in whole_lines(path, offset, end):
            read.append(len(data))
            yield data, at

    monkeypatch.setattr(streamrec_dist.summary_file, "whole_lines", spied)
    page, _ = make_report(long, 0)
    assert sum(read) == long.events_path.stat().st_size - covered < 200
    shown = Reader(page.read_text(encoding="utf-8")).text
    assert "one more" in shown and "decides nearly alone" in shown


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.create(tmp_path / "runs", "demo", Config())
    EventLog(run.events_path).append([Event("step", "rl", 1, metrics={"kl": 1.0, "staleness": 1})])
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["report", "demo", "--json"])
    assert done.exit_code == 0, done.stderr
    body = json.loads(done.stdout.splitlines()[-1])
    assert (body["run"], body["report"]) == ("demo", str(run.report_path / "index.html"))
    assert [Path(path).name for path in body["pictures"]][-1] == "staleness.png"
    assert "no trained model yet" in body["left_out"][0] and "left out: no examples" in done.stderr
    shown = CliRunner().invoke(app, ["report", "--examples", "0"])
    assert shown.exit_code == 0 and shown.stdout == f"{run.report_path / 'index.html'}\n"
    assert CliRunner().invoke(app, ["report", "nobody"]).exit_code == 2


def test_parts_of_the_work_add_up_to_the_time_there_was() -> None:
    """Against sums over steps, of a course that has been joined into buckets and of parts that some steps lack."""
    courses: dict[str, Course] = {}
    generated = waited = carried = 0.0
    for step in range(1, 5001):
        values = {"seconds": 1 + step % 3, "time/generate": 2.0, "time/wait_rollout": 0.5 * (step % 3)}
        if step % 500 == 0:
            values |= {"time/carry": 7.0, "time/evaluate": 9.0}
        generated, waited = generated + 2.0, waited + 0.5 * (step % 3)
        carried += values.get("time/carry", 0.0)
        for name, value in values.items():
            courses.setdefault(name, Course()).add(step, value)
    found = utilisation(courses)
    assert found is not None and found.minutes[-1] * 60 == pytest.approx(
        sum(1 + step % 3 for step in range(1, 5001))
    )
    rollout, others = found.roles
    assert list(rollout.parts) == ["generate", WAITING] and others.name == "others"
    seconds = 60 * found.lengths
    assert (rollout.parts["generate"] * seconds).sum() == pytest.approx(generated)
    assert (rollout.parts[WAITING] * seconds).sum() == pytest.approx(waited)
    assert list(others.parts) == ["carry"], "what the controller waits for is no work"
    assert (others.parts["carry"] * seconds).sum() == pytest.approx(carried)
    assert rollout.share(WAITING, found.lengths) == pytest.approx(waited / (waited + generated))
    assert utilisation({}) is None


def test_the_verdict_tells_of_rewards_that_are_gained_without_ranking_better() -> None:
    told = [
        Event("step", "rl", step, 10, metrics={"reward/total": step / 10, "spread/total": 0.1})
        for step in range(10)
    ]
    told += [
        Event("eval", "rl", step, split="valid", metrics={"ndcg@10": 0.5 - step / 50}) for step in (0, 9)
    ]
    summary = RunSummary("demo").apply_all([*told, Event("run", state="stopped", message="as asked")])
    entries = ledger(summary.stages["rl"].courses, RewardWeights())
    said = lines(summary, None, entries, {})
    assert [line.tone for line in said] == [Tone.warn, Tone.good, Tone.bad]
    assert "NDCG@10 did not rise with it, from .5000 to .3200" in said[-1].text
    assert health(entries) == (Tone.good, "all terms have a say")


def test_without_results_the_last_stage_is_judged_by_its_last_evaluation() -> None:
    judged = [
        Event("eval", stage, step, metrics={"ndcg@10": value, "ndcg@10_ci": [0.1, 0.3]})
        for stage, step, value in (("sft", 9, 0.15), ("rl", 0, 0.2), ("rl", 10, 0.25), ("sasrec", 5, 0.4))
    ]
    (first, *_) = figures(RunSummary("demo").apply_all(judged), None, [], 60.0)
    assert (first.label, first.value, first.beside) == (
        "rl, NDCG@10, validation",
        ".2500",
        "[.1000 .3000]",
    )


def test_a_run_is_judged_against_counting_and_what_was_read_is_told(run: RunDir) -> None:
    facts = gather(run)
    assert facts.setting is not None and facts.setting.title == "valid split, 80 users, history allowed"
    assert [row.stage for row in facts.setting.rows] == ["counting", "direct", "rl", "rl", "rl"]
    assert facts.setting.last.decoding == "greedy thoughts, beam 5"
    assert any(
        "below that of the counting baseline" in line.text
        for line in lines(facts.summary, facts.setting, [], {})
    )
    assert [stage.name for stage in facts.stages][:2] == ["sft", "rl"] and facts.seconds == 136


def test_text_is_made_visible() -> None:
    assert (
        visible("a\x00\x7f\x9b\u2066\ud800\u200d\n")
        == "a\u2400\u2421\u27e8U+009B\u27e9\u27e8U+2066\u27e9\ufffd\u200d\n"
    )
    assert visible("e" + "\u0301" * 9) == "e" + "\u0301" * 4
    assert short(" a \n b " * 99, 7) == "a b a …" and short("short", 7) == "short"
    assert CONTROLS not in "".join(map(visible, HARMFUL))


def test_no_two_shades_are_one_on_light_ground() -> None:
    assert len({shade.light for shade in THEME.values()}) == len(THEME)


@pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (apt install chromium)")
def test_a_browser_shows_the_page_whole_and_without_a_complaint(page: Path, tmp_path: Path) -> None:
    program = chromium()
    assert program is not None
    with Browser(program, tmp_path / "profile") as browser:
        browser.open(page)
        sizes = browser.value(
            "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
        )
        assert len(sizes) > len(PICTURES) and min(sizes) >= 1000
        assert browser.value("document.documentElement.scrollWidth") <= 1200
        every = "[...document.querySelectorAll('main *')]"
        assert browser.value(f"{every}.filter(e => e.getBoundingClientRect().right > 1200).length") == 0
        smallest = f"Math.min(...{every}.map(e => parseFloat(getComputedStyle(e).fontSize)))"
        assert browser.value(smallest) >= 11
        links = "[...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.hash)).length"
        assert browser.value(links) == 0
        assert browser.value("document.querySelectorAll('script').length") == 0
        ground = "getComputedStyle(document.body).backgroundColor"
        assert browser.value(ground) == "rgb(255, 255, 255)"
        browser.dark(True)
        assert browser.value(ground) == "rgb(20, 23, 27)"
        assert browser.complaints() == [] and browser.requested() == [page.as_uri()]


@pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (apt install chromium)")
def test_what_is_wrong_with_a_page_is_noticed(tmp_path: Path) -> None:
    """The checks of the test above can fail."""
    broken = tmp_path / "broken.html"
    broken.write_text(
        "<img src='nowhere.png'><div style='width:3000px'>x</div><script>console.error('no')</script>"
    )
    program = chromium()
    assert program is not None
    with Browser(program, tmp_path / "profile") as browser:
        browser.open(broken)
        assert browser.value("[...document.images].map(i => i.naturalWidth)") == [0]
        assert browser.value("document.documentElement.scrollWidth") > 1200
        assert {event["method"] for event in browser.complaints()} >= {"Runtime.consoleAPICalled"}
        assert any(address.endswith("nowhere.png") for address in browser.requested())
