"""Fetching a data set by name, and the command that does it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from streamrec_dist.data.addresses import ADDRESSES, PublicSet, RemoteFile
from streamrec_dist.data.fetch import fetch
from streamrec_dist.data.sources import SOURCES
from streamrec_dist.errors import EnvironmentProblem, RunError, UsageError
from tests.file_server import CONTENT, MD5, SHA256, FileServer, server

__all__ = ["server"]


def publish(
    monkeypatch: pytest.MonkeyPatch, server: FileServer, checksum: str | None = None, name: str = "toy/one"
) -> None:
    file = RemoteFile(f"{server.address}/a.gz", None, checksum)
    found = PublicSet("movielens", "https://example.org/toy", "toys only", (file,))
    monkeypatch.setitem(ADDRESSES, name, found)


def quiet(name: str, folder: Path) -> Any:
    return fetch(name, folder, lambda file, done, total: None, lambda line: None)


def test_without_a_published_checksum_the_first_one_is_recorded(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    publish(monkeypatch, server)
    folder = tmp_path / "deep" / "folder"
    (first,) = quiet("toy/one", folder)
    assert (first.trust, first.downloaded, first.checksum) == ("first use", True, f"sha256:{SHA256}")
    assert (folder / "a.gz.sha256").read_text() == f"{SHA256}  a.gz\n"
    (again,) = quiet("toy/one", folder)
    assert (again.trust, again.downloaded) == ("recorded", False)
    assert len(server.sent) == 1
    (folder / "a.gz").write_bytes(b"other")
    with pytest.raises(
        RunError, match=rf"wrong sha256 checksum, expected {SHA256}, found .*; remove it \(and"
    ):
        quiet("toy/one", folder)
    assert (folder / "a.gz").read_bytes() == b"other"


def test_a_file_put_there_by_hand_is_verified_or_recorded(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a.gz").write_bytes(CONTENT)
    publish(monkeypatch, server)
    (found,) = quiet("toy/one", tmp_path)
    assert (found.trust, found.downloaded) == ("first use", False)
    publish(monkeypatch, server, MD5)
    (found,) = quiet("toy/one", tmp_path)
    assert (found.trust, found.checksum) == ("published", MD5)
    (tmp_path / "a.gz").write_bytes(b"other")
    with pytest.raises(RunError, match="wrong md5 checksum"):
        quiet("toy/one", tmp_path)
    assert server.sent == []


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path):
    with pytest.raises(
        UsageError, match=r"'movielens/2m', did you mean 'movielens/.*known are\n  amazon2014/"
    ):
        quiet("movielens/2m", tmp_path)


def test_a_set_without_an_address_says_where_to_go(tmp_path: Path):
    with pytest.raises(
        EnvironmentProblem, match=r"yelp has no public address: open https://business\.yelp\.com"
    ):
        quiet("yelp", tmp_path)


def test_every_category_of_amazon_is_known():
    families = {"amazon2014": 24, "amazon2018": 29, "amazon2023": 33}
    cores = ("-0core", "-5core", "-0core-split", "-5core-split")
    for family, categories in families.items():
        names = {name for name, found in ADDRESSES.items() if found.format == family}
        plain = {name for name in names if not name.endswith(cores)}
        assert len(plain) == categories
        extra = cores if family == "amazon2023" else ()
        assert names == plain | {f"{name}{core}" for name in plain for core in extra}
    assert (
        ADDRESSES["amazon2023/health-and-household-5core"]
        .files[0]
        .url.endswith("/5core/rating_only/Health_and_Household.csv.gz")
    )


def test_the_table_is_consistent():
    assert {found.format for found in ADDRESSES.values()} == set(SOURCES)
    for name, found in ADDRESSES.items():
        assert name.partition("/")[0] == found.format
        names = [file.name for file in found.files]
        assert len(set(names)) == len(names)
        for file in found.files:
            assert file.url.startswith("https://")
            assert not file.checksum or file.checksum.startswith("md5:")


@pytest.mark.parametrize("name", [name for name, found in ADDRESSES.items() if found.files])
def test_what_is_fetched_is_what_its_format_looks_for(name: str, tmp_path: Path):
    for file in ADDRESSES[name].files:
        (tmp_path / f"{file.name}.sha256").touch()
        (tmp_path / file.name).touch()
        if file.name.endswith(".zip"):
            with zipfile.ZipFile(tmp_path / file.name, "w") as archive:
                archive.writestr("ml/ratings.csv", "")
                archive.writestr("ml/movies.csv", "")
    SOURCES[ADDRESSES[name].format](tmp_path)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["data", "fetch", *arguments])


def test_the_command_fetches_and_tells_what_it_trusts(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    publish(monkeypatch, server)
    monkeypatch.chdir(tmp_path)
    result = invoke("toy/one", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "name": "toy/one",
        "format": "movielens",
        "out": "data/toy/one",
        "files": [
            {
                "path": "data/toy/one/a.gz",
                "bytes": 300_000,
                "checksum": f"sha256:{SHA256}",
                "trust": "first use",
                "downloaded": True,
            }
        ],
    }
    assert "a.gz: 0.3 MB of 0.3 MB" in result.stderr
    assert "recorded on this first use" in result.stderr
    assert "terms: toys only (https://example.org/toy)" in result.stderr
    assert "all files were there" in invoke("toy/one").stderr


def test_exit_codes_of_the_command(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    unknown = invoke("movielens/2m")
    assert unknown.exit_code == 2
    assert "did you mean" in unknown.stderr
    publish(monkeypatch, server, "md5:" + "0" * 32)
    wrong = invoke("toy/one")
    assert wrong.exit_code == 1
    assert "wrong md5 checksum" in wrong.stderr
    server.files.clear()
    gone = invoke("toy/one", "--out", "here")
    assert gone.exit_code == 3
    assert f"open {server.address}/a.gz (linked from https://example.org/toy)" in gone.stderr
    assert "put the file at here/a.gz, and run this again" in gone.stderr
    (tmp_path / "file").touch()
    assert invoke("toy/one", "--out", "file").exit_code == 2
    assert invoke("yelp").exit_code == 3
