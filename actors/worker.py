"""What all actors of pools have in common."""

from __future__ import annotations

import os
from typing import Any

import ray


class Worker:
    """Base of an actor class."""

    def place(self) -> dict[str, Any]:
        """Where it runs; answered as soon as it is up."""
        context = ray.get_runtime_context()
        return {
            "node": ray.util.get_node_ip_address(),
            "pid": os.getpid(),
            "worker": context.get_worker_id(),
        }
