"""What a run is made with: versions and machines, told in its events for whoever reads them later."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from cli.remote.machine import devices, version_of

PACKAGES = ("streamrec-dist", "torch", "ray", "numpy")
GIB = 2**30


def environment(nodes: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """By name, in words; `nodes` are the resources of each node of the cluster. Processor and GPUs are the head's."""
    told = {name: version_of(name) for name in PACKAGES}
    told |= {"Python": platform.python_version(), "system": platform.platform(), "processor": _processor()}
    told["GPUs of the head"] = ", ".join(devices())
    told["nodes"] = str(len(nodes))
    for name, resource in (("CPUs", "CPU"), ("GPUs", "GPU")):
        told[f"{name} of the cluster"] = f"{sum(node.get(resource, 0.0) for node in nodes):.0f}"
    memory = sum(node.get("memory", 0.0) for node in nodes) / GIB
    told["memory of the cluster"] = f"{memory:.0f} GiB"
    return {name: value for name, value in told.items() if value}


def _processor() -> str:
    """As Linux calls it, or the architecture."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8", errors="replace").splitlines() if about.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
