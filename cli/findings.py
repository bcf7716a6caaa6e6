"""What facts about machines mean: is all well, and if not, what is to be done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cli.ray_head import OBJECT_STORE_BYTES
from streamrec_dist.cluster_config import ClusterConfig, NodeConfig

GIB = 2**30
OK, WARNING, PROBLEM = "ok", "warning", "problem"
OLDEST_PYTHON = (3, 11)
#: The first Ray that asks for a token; older ones let anybody in.
OLDEST_RAY = (2, 52)
#: Ray refuses a node with another version of itself; what is in messages between machines has these types.
SAME = ("ray",)
ALIKE = (
    "torch",
    "numpy",
    "pyarrow",
    "safetensors",
    "pydantic",
    "msgpack",
    "polars",
    "pandas",
    "transformers",
)
ALONE = ("sentence-transformers", "faiss-cpu", "scipy", "psutil", "pyyaml")
PACKAGES = (*SAME, *ALIKE, *ALONE)
TEMP_GIB, FULL = 5, 0.95
OPEN_FILES = 8192
CLOCK_SECONDS = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at on one machine; `state` is ok, warning or problem."""

    node: str
    check: str
    state: str
    found: str
    remedy: str = ""


def judge(
    name: str, facts: Mapping[str, Any], share: ClusterConfig | NodeConfig, head: Mapping[str, Any] | None
) -> Iterator[Finding]:
    """Everything about one machine; `head` are the facts about the head, for a node."""
    for check, (state, found, remedy) in {
        "python": _python(facts, head),
        "packages": _packages(facts, head),
        "gpus": _gpus(facts, share),
        "cpus": _cpus(facts, share),
        "shared memory": _shared_memory(facts),
        **{f"disk {folder}": _disk(folder, room) for folder, room in facts["folders"].items()},
        "open files": _open_files(facts),
    }.items():
        yield Finding(name, check, state, found, remedy if state != OK else "")


def way(name: str, facts: Mapping[str, Any], head: str) -> Finding:
    """Whether head and node reach each other."""
    if facts["way"]:
        remedy = (
            f"{name} does not reach {head}: give an address of this machine that it reaches with cluster.head, "
            "or let its packets through the firewall (docs/operations.md, Ports and secrets)"
        )
        return Finding(name, "network", PROBLEM, f"to the head: {facts['way']}", remedy)
    if facts["knocked"] is False:
        remedy = (
            f"the head does not reach {name} at its ports: open them for this machine (docs/operations.md, Ports "
            "and secrets)"
        )
        return Finding(name, "network", PROBLEM, "from the head: no connection", remedy)
    return Finding(name, "network", OK, "head and node reach each other")


def clock(name: str, ahead: float) -> Finding:
    """Whether a node's clock agrees with the head's, whose it is `ahead` of, as far as that can be told."""
    if abs(ahead) <= CLOCK_SECONDS:
        return Finding(name, "clock", OK, f"within {CLOCK_SECONDS:g} s")
    remedy = "set it by NTP on both machines (such as chrony): times in logs and events do not fit together"
    return Finding(name, "clock", WARNING, f"{ahead:+.0f} s against the head", remedy)


def _python(facts: Mapping[str, Any], head: Mapping[str, Any] | None) -> tuple[str, str, str]:
    version, found = facts["python"], f"{facts['python']} ({facts['executable']})"
    if facts["system"] != "Linux" and head is not None:
        return PROBLEM, f"{facts['system']}, {found}", "only Linux machines can be nodes"
    if tuple(map(int, version.split(".")[:2])) < OLDEST_PYTHON:
        return PROBLEM, found, "install Python 3.11 or newer and name it with cluster.nodes[].python"
    if head and version != head["python"]:
        remedy = (
            f"Ray wants the head's, {head['python']}, to the last digit; name one with cluster.nodes[].python"
        )
        return PROBLEM, found, remedy
    return OK, found, ""


def _packages(facts: Mapping[str, Any], head: Mapping[str, Any] | None) -> tuple[str, str, str]:
    have = facts["packages"]
    missing = [name for name in PACKAGES if not have[name]]
    if missing:
        remedy = f"{facts['executable']} -m pip install -c constraints.txt {' '.join(missing)}"
        return PROBLEM, f"missing: {', '.join(missing)}", remedy
    found = f"ray {have['ray']}, torch {have['torch']}"
    if tuple(map(int, have["ray"].split(".")[:2])) < OLDEST_RAY:
        return PROBLEM, found, "install Ray 2.52 or newer: older ones let in anybody who reaches their port"
    versions = head["packages"] if head else have
    differing = [name for name in (*SAME, *ALIKE) if have[name] != versions[name]]
    told = ", ".join(f"{name} {have[name]} (head: {versions[name]})" for name in differing)
    pinned = " ".join(f"{name}=={versions[name]}" for name in differing)
    remedy = f"install the head's: {facts['executable']} -m pip install {pinned}"
    if set(differing) & set(SAME):
        return PROBLEM, told, remedy
    return (WARNING, told, remedy) if differing else (OK, found, "")


def _gpus(facts: Mapping[str, Any], share: ClusterConfig | NodeConfig) -> tuple[str, str, str]:
    names, usable = facts["gpus"], facts["torch_gpus"]
    found = f"{len(names)}: {', '.join(sorted(set(names)))}" if names else "none"
    if share.gpus is not None and share.gpus > len(names):
        return PROBLEM, found, f"cluster.yaml gives {share.gpus} of this machine to the cluster: lower gpus"
    if names and share.gpus != 0 and usable < len(names):
        remedy = "install a torch built for this driver's CUDA, or set gpus: 0 for this machine"
        return PROBLEM, f"{found}; torch can use {usable}", remedy
    return OK, found, ""


def _cpus(facts: Mapping[str, Any], share: ClusterConfig | NodeConfig) -> tuple[str, str, str]:
    if share.cpus is not None and share.cpus > facts["cpus"]:
        remedy = f"cluster.yaml gives {share.cpus} to the cluster: they will wait for one another; lower cpus"
        return WARNING, str(facts["cpus"]), remedy
    return OK, str(facts["cpus"]), ""


def _shared_memory(facts: Mapping[str, Any]) -> tuple[str, str, str]:
    wanted = min(OBJECT_STORE_BYTES, facts["memory"] // 10)
    found = f"{facts['shm']['free'] / GIB:.1f} GiB free in /dev/shm"
    if facts["shm"]["free"] < wanted:
        remedy = (
            f"Ray keeps objects there, up to {wanted / GIB:.1f} GiB, and else on disk, which is slow: remount it "
            "larger (in a container: --shm-size)"
        )
        return WARNING, found, remedy
    return OK, found, ""


def _disk(folder: str, room: Mapping[str, Any]) -> tuple[str, str, str]:
    free, used = room["free"], 1 - room["free"] / max(1, room["total"])
    found = f"{free / GIB:.1f} GiB free"
    if not room["writable"]:
        return PROBLEM, found, f"{folder} cannot be written to; change its mode or owner"
    if free < GIB:
        return PROBLEM, found, f"make room in {folder}: checkpoints, logs and copies of the code go there"
    if free < TEMP_GIB * GIB or used > FULL:
        return WARNING, found, f"make room: Ray puts no object on a disk that is {FULL:.0%} full"
    return OK, found, ""


def _open_files(facts: Mapping[str, Any]) -> tuple[str, str, str]:
    if 0 <= facts["open_files"] < OPEN_FILES:
        remedy = f"raise it (ulimit -Hn, LimitNOFILE): every actor costs connections; {OPEN_FILES} are enough"
        return WARNING, str(facts["open_files"]), remedy
    return OK, "no limit" if facts["open_files"] < 0 else str(facts["open_files"]), ""
