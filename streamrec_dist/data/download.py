"""One file over HTTP into FILE.part: goes on where it broke off, and is verified before it gets its name."""

from __future__ import annotations

import errno
import fcntl
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

from streamrec_dist.data.addresses import RemoteFile
from streamrec_dist.data.checksums import check_published
from streamrec_dist.errors import EnvironmentProblem, RunError
from streamrec_dist.json_file import parse_json

CHUNK = 1 << 20
#: Seconds that a server may be silent, while connecting or in the middle of a file.
SILENCE = 60.0
#: Seconds before each new try; a try that brought the file further starts the row anew.
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
LENGTH = re.compile(r"\d{1,18}", re.ASCII)
#: Answers after which another try may succeed.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

Progress = Callable[[int, int | None], None]
Say = Callable[[str], None]


class Unreachable(EnvironmentProblem):
    """The server does not give the file."""


class _Broken(Exception):
    """A try failed in a way that another try may not."""


def download(file: RemoteFile, target: Path, progress: Progress, say: Say) -> None:
    """Downloads `file` to `target`, which must not exist; its folder must.

    An earlier FILE.part is continued if the server still has the same file (by ETag or date), else begun
    anew. `progress` is called with the bytes that are there and the length of the file, None where it is not
    known; `say` with a line about each new try. Raises Unreachable where the server does not give the file,
    EnvironmentProblem where it cannot be stored, RunError where it is not the one that was published: then
    FILE.part is deleted.
    """
    part = target.with_name(f"{target.name}.part")
    # Unbuffered, so that closing the file after the disk is full has nothing left to write.
    with part.open("ab", buffering=0) as out:
        _lock(out, part)
        try:
            _insist(file, out, progress, say)
        except _Broken as error:
            raise Unreachable(f"{file.url}: {error}") from error
        finally:
            if not out.tell():
                part.unlink()
                _state(part).unlink(missing_ok=True)
        try:
            check_published(file, part)
        except RunError as error:
            part.unlink()
            raise RunError(f"{error}; what was downloaded has been deleted") from error
        finally:
            _state(part).unlink(missing_ok=True)
        os.fsync(out.fileno())
        os.replace(part, target)


def _lock(out: FileIO, part: Path) -> None:
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise EnvironmentProblem(f"{part} is being written by another process; wait for it to end") from error


def _insist(file: RemoteFile, out: FileIO, progress: Progress, say: Say) -> None:
    """Tries until the file is whole. Raises _Broken when the last of several tries in vain has failed."""
    tries = 0
    while True:
        before = out.tell()
        try:
            return _transfer(file, out, progress)
        except _Broken as error:
            tries = 0 if out.tell() > before else tries
            if tries == len(PAUSES):
                raise _Broken(f"{error}, {tries + 1} times in a row") from error
            say(f"{file.name}: {error}; trying again in {PAUSES[tries]:.0f} s")
            time.sleep(PAUSES[tries])
            tries += 1


def _transfer(file: RemoteFile, out: FileIO, progress: Progress) -> None:
    """One request, for what is missing where that can be asked for."""
    part = Path(str(out.name))
    validator = _validator(part, file.url)
    if not validator:
        _empty(out)
    offset = out.tell()
    if file.size is not None and offset >= file.size:
        return
    with _open(file.url, offset, validator) as response:
        if response.status == 416 and response.headers.get("Content-Range") == f"bytes */{offset}":
            return
        total = _total(response, out, offset)
        if response.status == 200:
            _empty(out)
            _remember(part, file.url, response.headers)
        if file.size and total and file.size != total:
            raise RunError(
                f"{file.url}: expected {file.size} bytes, the server has {total}; it is not the file that was "
                "published"
            )
        _must_fit(part, (total or 0) - out.tell())
        _receive(response, out, total, progress)
        if not out.tell():
            raise _Broken("the server sends an empty file")


def _open(url: str, offset: int, validator: str | None) -> Any:
    """The answer of the server, 200 with the whole file or 206 with what follows `offset`."""
    request = urllib.request.Request(url, headers={"User-Agent": "streamrec-dist"})
    if offset and validator:
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", validator)
    try:
        return urllib.request.build_opener(_SafeRedirects).open(request, timeout=SILENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        if error.code in PASSING:
            raise _Broken(f"the server answers {error.code} {error.reason}") from error
        raise Unreachable(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise Unreachable(
                f"{url}: the certificate of the server is not valid ({reason.verify_message}), so nothing was read"
            ) from error
        raise _Broken(f"no connection ({reason})") from error


def _total(response: Any, out: FileIO, offset: int) -> int | None:
    """The length of the whole file. Raises _Broken, with nothing kept, where the answer continues elsewhere."""
    if response.status == 200:
        length = response.headers.get("Content-Length")
        return int(length) if length and LENGTH.fullmatch(length) else None
    answer = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18})", answer) if response.status == 206 else None
    if match and int(match[1]) == offset:
        return int(match[2])
    _empty(out)
    raise _Broken(f"the server does not continue at byte {offset} ({response.status} {answer})")


def _receive(response: Any, out: FileIO, total: int | None, progress: Progress) -> None:
    progress(out.tell(), total)
    while out.tell() != total:
        try:
            # read1 returns what has come; read would lose up to a chunk when the connection breaks.
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(f"the connection broke at byte {out.tell()} ({error})") from error
        if not chunk and total is not None:
            raise _Broken(f"the connection broke at byte {out.tell()} of {total}")
        if not chunk:
            return
        _write(chunk, out)
        progress(out.tell(), total)


def _write(chunk: bytes, out: FileIO) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[out.write(rest) :]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(Path(str(out.name)), None) from error
        raise


def _empty(out: FileIO) -> None:
    out.truncate(0)
    out.seek(0)


def _must_fit(part: Path, missing: int) -> None:
    if missing > shutil.disk_usage(part.parent).free:
        raise _no_space(part, missing)


def _no_space(part: Path, missing: int | None) -> EnvironmentProblem:
    free = shutil.disk_usage(part.parent).free
    needed = f"{missing:,} bytes are needed" if missing else "more is needed"
    return EnvironmentProblem(
        f"{part}: no space left on the disk ({free:,} bytes are free, {needed}); make room and run it again, "
        "it goes on from here"
    )


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _remember(part: Path, url: str, headers: Any) -> None:
    """Notes what identifies the server's file; a weak ETag does not promise the same bytes."""
    etag = headers.get("ETag", "")
    validator = etag if etag.startswith('"') else headers.get("Last-Modified")
    _state(part).write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


def _validator(part: Path, url: str) -> str | None:
    """What identified the server's file when FILE.part was begun, None where that is not known."""
    try:
        state = parse_json(_state(part).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    validator = state.get("validator") if isinstance(state, dict) and state.get("url") == url else None
    # It goes into a header as it is.
    return validator if isinstance(validator, str) and validator.isprintable() else None


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to something unverified."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.type == "https" and not newurl.startswith("https:"):
            raise Unreachable(f"{req.full_url} redirects to {newurl}, which is not encrypted: not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
