"""Fetching against a real server on 127.0.0.1: resumed, verified, refused."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from cli.app import app
from streamrec_dist.data import download as downloading
from streamrec_dist.data.addresses import ADDRESSES, PublicSet, RemoteFile
from streamrec_dist.data.download import download
from streamrec_dist.data.fetch import fetch
from streamrec_dist.data.sources import SOURCES
from streamrec_dist.errors import EnvironmentProblem, RunError, UsageError
from tests.file_server import FileServer, serving

CONTENT = random.Random(1).randbytes(300_000)
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloading, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(downloading, "SILENCE", 5.0)
    with serving() as state:
        state.files["/a.gz"] = CONTENT
        yield state


class Got(NamedTuple):
    path: Path
    progress: list[tuple[int, int | None]]
    said: list[str]


def get(server: FileServer, folder: Path, size: int | None = None, checksum: str | None = None) -> Got:
    got = Got(folder / "a.gz", [], [])
    file = RemoteFile(f"{server.address}/a.gz", size, checksum)
    download(file, got.path, lambda done, total: got.progress.append((done, total)), got.said.append)
    return got


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "a.gz")


def test_a_file_is_downloaded_and_verified(server: FileServer, tmp_path: Path):
    got = get(server, tmp_path, len(CONTENT), MD5)
    assert got.path.read_bytes() == CONTENT
    assert leftovers(tmp_path) == []
    assert got.progress[0] == (0, len(CONTENT))
    assert got.progress[-1] == (len(CONTENT), len(CONTENT))
    assert server.sent == [("/a.gz", None, 200, len(CONTENT))]


def test_a_broken_connection_is_resumed_where_it_broke(server: FileServer, tmp_path: Path):
    server.breaks = [100_000, 50_000]
    got = get(server, tmp_path, checksum=MD5)
    assert got.path.read_bytes() == CONTENT
    assert server.sent == [
        ("/a.gz", None, 200, 100_000),
        ("/a.gz", "bytes=100000-", 206, 50_000),
        ("/a.gz", "bytes=150000-", 206, 150_000),
    ]
    assert got.said[0] == "a.gz: the connection broke at byte 100000 of 300000; trying again in 0 s"
    assert leftovers(tmp_path) == []


def test_a_server_that_falls_silent_is_left_and_asked_again(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(downloading, "SILENCE", 0.5)
    server.breaks, server.silence = [100_000], 3.0
    began = time.monotonic()
    got = get(server, tmp_path, checksum=MD5)
    assert time.monotonic() - began < 2.5
    assert got.said == ["a.gz: the connection broke at byte 100000 (timed out); trying again in 0 s"]
    assert server.sent[1] == ("/a.gz", "bytes=100000-", 206, 200_000)


@pytest.mark.parametrize("validator", ["etag", "last_modified"])
def test_a_later_run_goes_on_with_the_part(server: FileServer, tmp_path: Path, validator: str):
    server.etag = None
    setattr(server, validator, '"x"' if validator == "etag" else "Wed, 21 Oct 2015 07:28:00 GMT")
    server.breaks = [100_000]
    # The first run breaks off and then finds the server down three times in a row.
    with pytest.raises(EnvironmentProblem, match=r"the server answers 503 .*, 3 times in a row"):
        interrupted(server, tmp_path)
    assert leftovers(tmp_path) == ["a.gz.part", "a.gz.part.json"]
    server.sent.clear()
    server.statuses.clear()
    assert get(server, tmp_path).path.read_bytes() == CONTENT
    assert server.sent == [("/a.gz", "bytes=100000-", 206, 200_000)]
    assert leftovers(tmp_path) == []


def interrupted(server: FileServer, folder: Path) -> None:
    file = RemoteFile(f"{server.address}/a.gz")
    download(file, folder / "a.gz", lambda done, total: None, lambda line: server.statuses.extend([503] * 3))


def test_a_server_without_ranges_starts_anew(server: FileServer, tmp_path: Path):
    server.ranges = False
    server.breaks = [100_000]
    assert get(server, tmp_path, checksum=MD5).path.read_bytes() == CONTENT
    assert server.sent == [("/a.gz", None, 200, 100_000), ("/a.gz", "bytes=100000-", 200, 300_000)]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_continued(
    server: FileServer, tmp_path: Path, etag: str | None
):
    server.etag = etag
    server.breaks = [100_000]
    assert get(server, tmp_path).path.read_bytes() == CONTENT
    assert [sent[1:] for sent in server.sent] == [(None, 200, 100_000), (None, 200, 300_000)]


def test_a_file_that_changed_between_tries_is_begun_anew(server: FileServer, tmp_path: Path):
    server.breaks = [100_000]
    changed = CONTENT[::-1]

    def change(line: str) -> None:
        server.files["/a.gz"], server.etag = changed, '"two"'

    file = RemoteFile(f"{server.address}/a.gz")
    download(file, tmp_path / "a.gz", lambda done, total: None, change)
    assert (tmp_path / "a.gz").read_bytes() == changed
    assert server.sent[1] == ("/a.gz", "bytes=100000-", 200, 300_000)


def test_a_part_of_another_address_is_not_continued(server: FileServer, tmp_path: Path):
    (tmp_path / "a.gz.part").write_bytes(b"something else")
    (tmp_path / "a.gz.part.json").write_text(json.dumps({"url": "http://x/a.gz", "validator": '"one"'}))
    assert get(server, tmp_path).path.read_bytes() == CONTENT


def test_a_part_that_was_whole_is_kept(server: FileServer, tmp_path: Path):
    (tmp_path / "a.gz.part").write_bytes(CONTENT)
    state = {"url": f"{server.address}/a.gz", "validator": '"one"'}
    (tmp_path / "a.gz.part.json").write_text(json.dumps(state))
    assert get(server, tmp_path).path.read_bytes() == CONTENT
    assert server.sent == [("/a.gz", "bytes=300000-", 416, 0)]


def test_a_part_that_is_too_long_is_begun_anew(server: FileServer, tmp_path: Path):
    (tmp_path / "a.gz.part").write_bytes(CONTENT + b"more")
    state = {"url": f"{server.address}/a.gz", "validator": '"one"'}
    (tmp_path / "a.gz.part.json").write_text(json.dumps(state))
    assert get(server, tmp_path).path.read_bytes() == CONTENT


def test_a_length_that_is_not_told_is_not_needed(server: FileServer, tmp_path: Path):
    server.lengths = False
    got = get(server, tmp_path, checksum=MD5)
    assert got.path.read_bytes() == CONTENT
    assert got.progress[-1] == (300_000, None)


def test_a_wrong_checksum_deletes_what_was_downloaded(server: FileServer, tmp_path: Path):
    wrong = "0" * 32
    with pytest.raises(RunError, match=f"wrong md5 checksum, expected {wrong}, found {MD5[4:]}; .* deleted"):
        get(server, tmp_path, checksum=f"md5:{wrong}")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_size_is_refused_before_or_after_the_download(server: FileServer, tmp_path: Path):
    with pytest.raises(RunError, match="expected 299999 bytes, the server has 300000"):
        get(server, tmp_path, size=299_999)
    assert server.sent[0][3] == 300_000
    server.lengths = False
    with pytest.raises(RunError, match=r"wrong size, expected 300001 bytes, found 300000; .* deleted"):
        get(server, tmp_path, size=300_001)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_not_asked_for_again(server: FileServer, tmp_path: Path):
    server.files.clear()
    with pytest.raises(EnvironmentProblem, match=r"/a\.gz: the server answers 404 Not Found"):
        get(server, tmp_path)
    assert len(server.sent) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_busy_is_asked_again(server: FileServer, tmp_path: Path):
    server.statuses = [503, 429]
    got = get(server, tmp_path)
    assert got.path.read_bytes() == CONTENT
    assert len(got.said) == 2


def test_a_redirect_is_followed_with_its_range(server: FileServer, tmp_path: Path):
    server.moved["/a.gz"] = f"{server.address}/b.gz"
    server.files["/b.gz"] = server.files.pop("/a.gz")
    server.breaks = [100_000]
    assert get(server, tmp_path).path.read_bytes() == CONTENT
    assert server.sent[-1] == ("/b.gz", "bytes=100000-", 206, 200_000)


def test_a_redirect_out_of_https_is_not_followed():
    handler = downloading._SafeRedirects()
    request = downloading.urllib.request.Request("https://127.0.0.1/a")
    with pytest.raises(
        EnvironmentProblem, match=r"redirects to http://127\.0\.0\.1/b, which is not encrypted"
    ):
        handler.redirect_request(request, None, 302, "", {}, "http://127.0.0.1/b")


def test_no_server_is_an_environment_problem(server: FileServer, tmp_path: Path):
    file = RemoteFile("http://127.0.0.1:9/a.gz")
    with pytest.raises(EnvironmentProblem, match=r"no connection \(.*refused\), 3 times in a row"):
        download(file, tmp_path / "a.gz", lambda done, total: None, lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_before_and_during_the_download(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(EnvironmentProblem, match=r"no space left .*1,000 bytes are free, 300,000 bytes are"):
        get(server, tmp_path)

    written = []

    def write(chunk: memoryview) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(chunk[:2])
        return 2

    out: Any = SimpleNamespace(write=write, name=str(tmp_path / "a.gz.part"))
    with pytest.raises(EnvironmentProblem, match=r"no space left on the disk .* goes on from here"):
        downloading._write(b"12345", out)
    assert written == [b"12"]


def test_an_empty_answer_is_no_file(server: FileServer, tmp_path: Path):
    server.files["/a.gz"] = b""
    with pytest.raises(EnvironmentProblem, match="the server sends an empty file, 3 times in a row"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_downloads_of_a_file_do_not_mix(server: FileServer, tmp_path: Path):
    with (tmp_path / "a.gz.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentProblem, match="is being written by another process"):
            get(server, tmp_path)


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
        (tmp_path / file.name).touch()
        (tmp_path / f"{file.name}.sha256").touch()
    if ADDRESSES[name].format == "movielens":
        pytest.skip("an empty file is no zip")
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
