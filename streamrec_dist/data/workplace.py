"""Where a dataset is made: a temporary folder beside the output, which a lock keeps for one process."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from streamrec_dist.errors import UsageError

MANIFEST = "dataset.json"
FILES = "files-"


class Workplace:
    """A context: `folder` is empty and temporary, `publish` moves its content to the output at once.

    Whoever holds the lock is alone with this output, so temporary folders found beside it belong to processes
    that died, and are removed.
    """

    def __init__(self, out: Path):
        """Raises UsageError where `out` holds something that is no prepared dataset, or cannot be read."""
        with _usable(out):
            self.out = Path(out).resolve()
            if self.out.exists() and not self.out.is_dir():
                raise UsageError(f"{out} is a file; give a directory for the prepared data")
            if self.out.is_dir() and any(self.out.iterdir()) and not (self.out / MANIFEST).is_file():
                raise UsageError(f"{out} holds files but no {MANIFEST}: give an empty or a new directory")
        self.folder = self.out.parent / f".{self.out.name}.{os.getpid()}.tmp"
        self._lock_path = self.out.parent / f".{self.out.name}.lock"
        self._lock: IO[str] | None = None

    def __enter__(self) -> Workplace:
        """Raises UsageError when another process is preparing the same output, or nothing can be written there."""
        with _usable(self.out):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._acquire()
            try:
                temporary = re.compile(rf"\.{re.escape(self.out.name)}\.\d+\.tmp")
                for path in self.out.parent.iterdir():
                    if temporary.fullmatch(path.name):
                        shutil.rmtree(path, ignore_errors=True)
                self.folder.mkdir()
            except OSError:
                self._release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._release()

    def publish(self, files: Path, content_hash: str, manifest: str) -> None:
        """Make the folder `files` the content of the output; `manifest` has to name it by `files_name`.

        The manifest is replaced last and in one step: until then readers find the old dataset, from then on the
        new one, even if this process is killed in between.
        """
        name = self.files_name(content_hash)
        if not self.out.exists() or not any(self.out.iterdir()):
            fresh = self.folder / "fresh"
            fresh.mkdir()
            os.rename(files, fresh / name)
            (fresh / MANIFEST).write_text(manifest, encoding="utf-8")
            os.replace(fresh, self.out)
            return
        os.rename(files, self.out / name)
        written = self.folder / MANIFEST
        written.write_text(manifest, encoding="utf-8")
        os.replace(written, self.out / MANIFEST)
        for old in self.out.glob(f"{FILES}*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)

    def files_name(self, content_hash: str) -> str:
        """A folder name that the output does not have: the same content may be there, damaged."""
        base = f"{FILES}{content_hash[:12]}"
        taken = (self.out / base).exists()
        return (
            base
            if not taken
            else next(
                name for number in range(2, 1000) if not (self.out / (name := f"{base}-{number}")).exists()
            )
        )

    def _release(self) -> None:
        if self._lock is not None:
            self._lock_path.unlink(missing_ok=True)
            self._lock.close()

    def _acquire(self) -> IO[str]:
        while True:
            lock = self._lock_path.open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                raise UsageError(
                    f"another process is preparing {self.out}; wait for it, or give another --out"
                ) from None
            # The process before may have removed the file between our opening and locking it.
            if self._lock_path.exists() and os.path.samestat(os.fstat(lock.fileno()), self._lock_path.stat()):
                return lock
            lock.close()


@contextmanager
def _usable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{out} cannot be used for the prepared data ({error.strerror or error}); give another --out"
        ) from error
