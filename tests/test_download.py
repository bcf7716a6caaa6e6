"""Downloading one file from a real server on 127.0.0.1: resumed, verified, refused."""

from __future__ import annotations

import errno
import fcntl
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from streamrec_dist.data import download as downloading
from streamrec_dist.data.addresses import RemoteFile
from streamrec_dist.data.download import download
from streamrec_dist.errors import EnvironmentProblem, RunError
from tests.file_server import CONTENT, MD5, FileServer, server

__all__ = ["server"]


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
