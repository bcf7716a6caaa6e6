"""Machines on this machine: each has a network, processes, a home and a /tmp of its own, and a real sshd."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from cli.record import ClusterRecord, read_record

T = TypeVar("T")

REPO = Path(__file__).parents[1]
#: Where the head has the project, of which its folder here is `host.folder / PROJECT[1:]`.
PROJECT = "/tmp/project"
HOME = Path("~root").expanduser()
#: What a machine has of this one: the interpreters. Everything else that could be the project is covered.
KEPT = tuple(dict.fromkeys(Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)))
NEEDED = ("ip", "unshare", "nsenter", "ssh", "sshd", "ssh-keygen", "mount")
START_SECONDS = 20

#: Runs as the first process of a machine: covers folders, brings the network up, serves ssh. It is a shell, since
#: the first process has to take in what becomes of orphans.
INIT = r"""
set -e
stage=$OWN/stage
mkdir "$stage"
mount -t tmpfs none "$stage"
for kept in $KEPT; do mkdir -p "$stage$kept"; mount --bind "$kept" "$stage$kept"; done
mkdir -p "$stage/own"; mount --bind "$OWN" "$stage/own"
for covered in $COVERED; do
  test -d "$covered" || continue
  mkdir -p "$stage/own/covers$covered"
  mount --bind "$stage/own/covers$covered" "$covered"
done
for kept in $KEPT; do mkdir -p "$kept"; mount --bind "$stage$kept" "$kept"; done
mount --bind "$stage/own/home" "$HOME_FOLDER"
for kept in $KEPT; do mkdir -p "$kept"; mount --bind "$stage$kept" "$kept"; done
mount --bind "$stage/own/tmp" /tmp
hostname "$NAME"
ip link set lo up
mkdir -p /run/sshd
"$SSHD" -D -e -f "$OWN_HOME/.sshd/config" 2> "$OWN_HOME/.sshd/log" &
wait
"""


def missing() -> str:
    """Why this machine cannot hold others; empty when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    lacking = [name for name in NEEDED if not _program(name)]
    if lacking:
        return f"no {', '.join(lacking)} here"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "ip", "link", "add", "probe", "type", "veth"],
        capture_output=True,
        text=True,
    )
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass(frozen=True)
class Host:
    """One machine; `pid` is its first process."""

    name: str
    address: str
    folder: Path  # holds its tmp/ and home/
    pid: int

    def run(
        self, command: Sequence[str], timeout: float = 120, cwd: str = "/", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A command on this machine, as if typed there."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(HOME),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
            "COLUMNS": "140",
            "TERM": "dumb",
            **variables,
        }
        entered = ["nsenter", "-t", str(self.pid), "-m", "-p", "-n", "-u", "-i", "env", "-i"]
        entered += [f"{key}={value}" for key, value in environment.items()]
        entered += ["sh", "-c", f"cd {shlex.quote(cwd)} && exec {shlex.join(command)}"]
        return subprocess.run(entered, capture_output=True, text=True, timeout=timeout)

    def processes(self) -> list[psutil.Process]:
        """All its processes, with the ids they have outside."""
        return psutil.Process(self.pid).children(recursive=True)

    def down(self) -> None:
        """Switch it off: with its first process the kernel ends all others."""
        try:
            first = psutil.Process(self.pid)
            os.kill(self.pid, signal.SIGKILL)
            first.wait(timeout=10)
        except psutil.NoSuchProcess:
            return


@contextmanager
def machines(folder: Path, names: Sequence[str], with_project: str) -> Iterator[dict[str, Host]]:
    """Machines that reach one another, and by ssh from `with_project`, the only one that has the project."""
    tag = f"{os.getpid() % 100000:05d}"
    hub = f"srhub{tag}"
    hosts: dict[str, Host] = {}
    key = folder / "key"
    _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    _do("ip", "netns", "add", hub)
    try:
        _do("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        _do("ip", "-n", hub, "link", "set", "bridge", "up")
        for number, name in enumerate(names, 1):
            covered = _project_folders() if name != with_project else []
            hosts[name] = _machine(folder / name, name, number, key, covered)
            _connect(hub, hosts[name], f"v{tag}n{number}", number)
        for host in hosts.values():
            _allow(host, key, hosts.values())
        yield hosts
    finally:
        for host in hosts.values():
            host.down()
        _do("ip", "netns", "del", hub)


def write_yaml(head: Host, text: str) -> None:
    """The configuration of the project on the head."""
    (head.folder / PROJECT[1:]).mkdir(exist_ok=True)
    (head.folder / PROJECT[1:] / "cluster.yaml").write_text(text, encoding="utf-8")


def cli(head: Host, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Type a streamrec-dist command in the project on the head."""
    # Ray's workers step back for every other process, and those of other tests would leave them nothing.
    more = {"PYTHONPATH": str(REPO), "RAY_worker_niceness": "0"}
    return head.run([sys.executable, "-m", "cli.app", *arguments], cwd=PROJECT, **more, **variables)


def record_of(head: Host) -> ClusterRecord:
    """The record of the cluster that the head has."""
    record = read_record(head.folder / PROJECT[1:])
    assert record is not None
    return record


def others(host: Host) -> list[psutil.Process]:
    """What runs on a machine besides its SSH server."""
    return [process for process in host.processes() if process.name() != "sshd"]


def until(done: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something."""
    give_up = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < give_up, f"waited {seconds:.0f} s"
        time.sleep(0.1)


def _machine(folder: Path, name: str, number: int, key: Path, covered: Sequence[Path]) -> Host:
    home = folder / "home"
    settings = home / ".sshd"
    (folder / "tmp").mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    for private in (home / ".ssh", settings):
        private.mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(settings / "host_key"))
    shutil.copy(key.with_suffix(".pub"), home / ".ssh" / "authorized_keys")
    (settings / "config").write_text(
        f"Port 22\nHostKey {HOME}/.sshd/host_key\nPidFile none\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nStrictModes no\n",
        encoding="utf-8",
    )
    environment = {
        **os.environ,
        "KEPT": " ".join(map(str, KEPT)),
        "COVERED": " ".join(map(str, covered)),
        "OWN": str(folder),
        "HOME_FOLDER": str(HOME),
        "OWN_HOME": str(HOME),
        "NAME": name,
        "SSHD": _program("sshd"),
    }
    namespaces = ("--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child")
    with (folder / "init.log").open("wb") as log:
        outer = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-c", INIT],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    first = _await(lambda: next(iter(psutil.Process(outer.pid).children()), None), f"the start of {name}")
    return Host(name, f"10.77.0.{number}", folder, first.pid)


def _project_folders() -> list[Path]:
    """Where this checkout lies, and the one that the interpreter has installed, if that is another."""
    program = "import importlib.util as u; s = u.find_spec('actors'); print(s.origin if s else '')"
    found = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    installed = Path(found.stdout.strip()).parents[1] if found.stdout.strip() else REPO
    return list(dict.fromkeys((REPO, installed)))


def _connect(hub: str, host: Host, name: str, number: int) -> None:
    _do("ip", "-n", hub, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
    _do("ip", "-n", hub, "link", "set", name, "master", "bridge", "up")
    for command in (f"addr add {host.address}/24 dev eth0", "link set eth0 up", "route add default dev eth0"):
        _do("nsenter", "-t", str(host.pid), "-n", "ip", *command.split())


def _allow(host: Host, key: Path, others: Iterable[Host]) -> None:
    """Let a machine into the others by ssh, whose keys it knows."""
    private = host.folder / "home" / ".ssh"
    shutil.copy(key, private / "id_ed25519")
    known = [
        f"{other.address} {(other.folder / 'home/.sshd/host_key.pub').read_text(encoding='utf-8')}"
        for other in others
    ]
    (private / "known_hosts").write_text("".join(known), encoding="utf-8")
    _await(lambda: host.run(["true"]).returncode == 0, f"{host.name} to answer")


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"


def _await(ready: Callable[[], T], what: str) -> T:
    give_up = time.monotonic() + START_SECONDS
    while not (found := ready()):
        assert time.monotonic() < give_up, f"waited {START_SECONDS} s for {what}"
        time.sleep(0.05)
    return found
