"""The record of a cluster, `.streamrec/cluster.json`, by which every command finds it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from cli.here import Place
from streamrec_dist.cluster_config import NodeConfig
from streamrec_dist.errors import EnvironmentProblem
from streamrec_dist.json_file import first_problem

FOLDER, NAME = ".streamrec", "cluster.json"
#: What the names of private folders for Ray's sockets and logs begin with.
TEMP_PREFIX = "streamrec-"
CLUSTER_ID = re.compile(r"[0-9a-f]{32}")
ADDRESS = re.compile(r"[^\s:/]+:\d{1,5}")
LOCK_SECONDS = 120


@dataclass(frozen=True)
class NodeRecord:
    """What is known about a machine beside the head. Without processes its start was not completed."""

    #: Its entry of cluster.nodes, the path of its key absolute. Of what it gives to the cluster, what it did when it
    #: was last seen running.
    settings: dict[str, Any]
    pids: tuple[int, ...] = ()

    @property
    def config(self) -> NodeConfig:
        return NodeConfig.model_validate(self.settings)

    @property
    def name(self) -> str:
        return self.config.name


@dataclass(frozen=True)
class ClusterRecord:
    """What is known about a cluster. An empty address means that its start was not completed."""

    root: str  # the folder that holds .streamrec/ and runs/
    config_path: str
    cluster_id: str
    created_by_us: bool
    place: Place  # where its head was started, or it was attached to
    address: str = ""
    temp_dir: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # the `cluster:` section it was started with
    pids: tuple[int, ...] = ()
    started: Annotated[float, Field(allow_inf_nan=False)] = field(default_factory=time.time)
    nodes: tuple[NodeRecord, ...] = ()

    @property
    def host(self) -> str:
        """The address that the head listens on."""
        return self.address.rpartition(":")[0]

    @property
    def folder(self) -> Path:
        return Path(self.root) / FOLDER

    @property
    def runs(self) -> Path:
        return Path(self.root) / "runs"

    @property
    def token_path(self) -> Path:
        return self.folder / "token"

    def save(self) -> None:
        write_private(self.folder / NAME, json.dumps(asdict(self), indent=1) + "\n")

    def remove(self) -> None:
        self.token_path.unlink(missing_ok=True)
        (self.folder / NAME).unlink(missing_ok=True)


def read_record(root: Path) -> ClusterRecord | None:
    """The record in `root`; None where there is none, or another user's.

    Raises EnvironmentProblem when it cannot be understood, or is none that would have been written here.
    """
    folder = root / FOLDER
    try:
        if not _is_ours(folder):
            return None
        content = _read_own(folder)
        if content is None:
            return None
        record = replace(TypeAdapter(ClusterRecord).validate_json(content, strict=True), root=str(root))
        _check(record)
        return record
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        said = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise EnvironmentProblem(
            f"{folder / NAME}: not a record of a cluster ({said}); remove the file and start the cluster anew"
        ) from None


def _is_ours(path: Path) -> bool:
    """Whether something of this user is at a path, be it a link."""
    try:
        return path.lstat().st_uid == os.getuid()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False


def _read_own(folder: Path) -> bytes | None:
    """The content of the record in a folder, if that is this user's.

    Commands look in all folders above: a record that somebody else put there must not lead us anywhere, nor a link
    of theirs to one of ours. Raises OSError.
    """
    inside = _open_folder(folder)
    try:
        descriptor = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inside)
    finally:
        os.close(inside)
    with os.fdopen(descriptor, "rb") as file:
        return file.read() if os.fstat(descriptor).st_uid == os.getuid() else None


def _open_folder(folder: Path) -> int:
    """A descriptor of a folder that is no link. Raises OSError."""
    if folder.is_symlink():
        raise OSError(f"{folder} is a link")
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _check(record: ClusterRecord) -> None:
    """What is reached, ended and removed is named here: raise ValueError for what we would not have written."""
    if not CLUSTER_ID.fullmatch(record.cluster_id):
        raise ValueError(f"cluster_id {record.cluster_id!r} is none that was given here")
    if record.address and not _is_address(record.address):
        raise ValueError(f"address {record.address!r} is no HOST:PORT")
    if record.temp_dir and not _could_be_temp_dir(Path(record.temp_dir)):
        raise ValueError(f"temp_dir {record.temp_dir!r} is none that was made here")
    for node in record.nodes:
        _ = node.config  # a ValidationError is a ValueError


def _is_address(text: str) -> bool:
    """Whether a text is HOST:PORT."""
    return bool(ADDRESS.fullmatch(text)) and int(text.rpartition(":")[2]) < 2**16


def _could_be_temp_dir(folder: Path) -> bool:
    """Whether a folder is, or was, a private one of ours in the machine's folder for such."""
    if not folder.name.startswith(TEMP_PREFIX) or str(folder.parent) not in ("/tmp", tempfile.gettempdir()):
        return False
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return True
    return (
        stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700
    )


def root_of(config_path: Path) -> Path:
    """The folder of a configuration: where cluster.yaml lies, for a file under it as well as for itself."""
    path = config_path.absolute()
    if path.name == "cluster.yaml":
        return path.parent
    return next((parent for parent in path.parents if (parent / "cluster.yaml").is_file()), path.parent)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(unfinished, path)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the record of `root` while a cluster is started or ended. Raises EnvironmentProblem."""
    folder = root / FOLDER
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = _open_folder(folder)
    except OSError as error:
        raise EnvironmentProblem(f"{folder}: no folder for a cluster's secret ({error})") from None
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            raise EnvironmentProblem(f"{folder}: no folder for a cluster's secret: it is another user's")
        os.fchmod(descriptor, 0o700)
        # The token must not reach anybody's version control.
        write_private(folder / ".gitignore", "*\n")
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    give_up = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise EnvironmentProblem(
                    f"waited {LOCK_SECONDS} s for another `up` or `down` that is at work on {folder}"
                ) from None
            time.sleep(0.2)
