"""The record of a cluster, `.streamrec/cluster.json`, by which every command finds it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from streamrec_dist.cluster_config import NodeConfig
from streamrec_dist.errors import EnvironmentProblem
from streamrec_dist.json_file import first_problem

FOLDER = ".streamrec"
#: What the names of private folders for Ray's sockets and logs begin with.
TEMP_PREFIX = "streamrec-"
CLUSTER_ID = re.compile(r"[0-9a-f]{32}")
LOCK_SECONDS = 120


@dataclass(frozen=True)
class NodeRecord:
    """What is known about a machine beside the head. Without processes its start was not completed."""

    settings: dict[str, Any]  # its entry of cluster.nodes, the path of its key absolute
    pids: tuple[int, ...] = ()
    folder: str = ""

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
    address: str = ""
    temp_dir: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # the `cluster:` section it was started with
    pids: tuple[int, ...] = ()
    started: float = field(default_factory=time.time)
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
        write_private(self.folder / "cluster.json", json.dumps(asdict(self), indent=1) + "\n")

    def remove(self) -> None:
        self.token_path.unlink(missing_ok=True)
        (self.folder / "cluster.json").unlink(missing_ok=True)


def read_record(root: Path) -> ClusterRecord | None:
    """The record in `root`, or None. Raises EnvironmentProblem when it cannot be understood."""
    path = root / FOLDER / "cluster.json"
    try:
        content = _read_own(path)
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
            f"{path}: not a record of a cluster ({said}); remove the file and start the cluster anew"
        ) from None


def _read_own(path: Path) -> bytes | None:
    """The content of a file of this user, None of another's.

    Commands look in all folders above: a record that somebody else put there must not lead us anywhere, nor a link
    of theirs to one of ours.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        return file.read() if os.fstat(descriptor).st_uid == os.getuid() else None


def _check(record: ClusterRecord) -> None:
    """What is ended and removed is named here: raise ValueError for what we would not have written."""
    if not CLUSTER_ID.fullmatch(record.cluster_id):
        raise ValueError(f"cluster_id {record.cluster_id!r} is none that was given here")
    if record.temp_dir and not Path(record.temp_dir).name.startswith(TEMP_PREFIX):
        raise ValueError(f"temp_dir {record.temp_dir!r} is none that was made here")
    for node in record.nodes:
        _ = node.config  # a ValidationError is a ValueError


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
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    # The token must not reach anybody's version control.
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
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
