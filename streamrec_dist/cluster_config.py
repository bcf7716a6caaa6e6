"""The section `cluster:` of the configuration: where the work runs."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from streamrec_dist.section import Section

#: Before the name of a role, in the name of the resource that machines started for it have.
ROLE_PREFIX = "role:"
RoleName = Literal["embed", "annotate", "rollout", "reward", "evaluate", "learners"]


def _is_a_host(name: str) -> str:
    # A name that begins with a dash would be an option of ssh.
    if not name or name.startswith("-") or any(char.isspace() or not char.isprintable() for char in name):
        raise ValueError("expected the name or address of a machine, as ssh takes it")
    return name


Host = Annotated[str, AfterValidator(_is_a_host)]


class NodeConfig(Section):
    """A machine that `up` reaches over SSH and adds to the cluster."""

    host: Host = Field(description="its name or address, as the system's ssh takes it")
    user: Host | None = Field(None, description="default: what ssh's configuration says")
    port: int | None = Field(None, ge=1, le=65535, description="of its SSH server; default: ssh's")
    key: str | None = Field(None, description="a private key; default: ssh's")
    roles: tuple[RoleName, ...] = Field((), description="what runs here, of the roles that any node names")
    gpus: int | None = Field(None, ge=0, description="GPUs the cluster may use there; default: all")
    cpus: int | None = Field(None, ge=1, description="cores the cluster may use there; default: all")
    python: str | None = Field(
        None, pattern=r"^/", description="interpreter with ray and torch there; default: this one's path"
    )

    @property
    def name(self) -> str:
        """What tells it from the other nodes; also its name in Ray."""
        return f"{self.host}:{self.port}" if self.port else self.host


class ClusterConfig(Section):
    """Where the work runs: `local` starts a Ray cluster on this machine, HOST:PORT attaches to one."""

    address: str = Field("local", pattern=r"^(local|[^\s:/]+:\d{1,5})$")
    cpus: int | None = Field(None, ge=1, description="cores the cluster may use here; default: all")
    gpus: int | None = Field(None, ge=0, description="GPUs the cluster may use here; default: all")
    roles: tuple[RoleName, ...] = Field((), description="what runs on this machine, as for nodes")
    head: Host | None = Field(None, description="address of this machine that the nodes reach")
    nodes: tuple[NodeConfig, ...] = ()
    patience_s: float = Field(
        180.0, gt=0, description="how long a run waits for the processes that it needs at least"
    )

    @model_validator(mode="after")
    def _nodes_can_join(self) -> ClusterConfig:
        if self.nodes and self.address != "local":
            raise ValueError(
                f"nodes join a cluster that `up` starts here, not one that runs at {self.address}; "
                "leave out cluster.nodes or set cluster.address to local"
            )
        if self.nodes and self.head and is_loopback(self.head):
            raise ValueError(
                f"cluster.head is {self.head}, which only this machine reaches; give the address of this machine "
                "in the network of the nodes"
            )
        names = [node.name for node in self.nodes]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"cluster.nodes has {twice} twice; give all its roles to one entry")
        return self


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine alone."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
