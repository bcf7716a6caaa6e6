"""What this machine is called in a network."""

from __future__ import annotations

import psutil

from streamrec_dist.errors import RunError


def interface_of(address: str) -> str:
    """The network interface of this machine that has an address. Raises RunError where none has."""
    for name, found in psutil.net_if_addrs().items():
        if address in {one.address for one in found}:
            return name
    raise RunError(f"no network interface has the address {address}, by which Ray knows this machine")
