"""Functions of tensors as CUDA graphs: captured once for each shape of their arguments, then replayed.

A rollout of a small model is thousands of kernels of a few microseconds: launched one by one, the host is what takes
the time. A replay launches them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamrec_dist.transfer import pinned, to_device, to_host

#: Runs before a capture: libraries choose kernels and allocate workspaces, and weights used lazily are laid out.
WARM_UP = 2


@dataclass(frozen=True)
class Captured:
    """A graph and the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: dict[str, Tensor]


class Graphed:
    """`function` of tensors on `device`, from host arrays to named host arrays.

    On CUDA the function is captured for each shape of its arguments. It must then be a function of its arguments and
    of tensors that stay where they are (`Engine.refresh` keeps its weights in place), and must not wait for the
    device. Nor does a call, but for the first of a shape: the arrays it returns are complete after `wait`. Elsewhere
    the function is simply called, without a copy.
    """

    def __init__(self, function: Callable[..., dict[str, Tensor]], device: torch.device):
        self.function = function
        self.device = device
        self.captures = device.type == "cuda"
        self._captured: dict[tuple[object, ...], Captured] = {}
        if self.captures:
            # One stream and one pool for all: graphs that are replayed one after the other share their memory.
            self._stream = torch.cuda.Stream(device)
            self._pool = torch.cuda.graph_pool_handle()

    @torch.no_grad()
    def __call__(self, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        if self.captures and len(arrays[0]):
            outputs = self._replay([pinned(array) for array in arrays])
        else:
            outputs = self.function(*(to_device(array, self.device) for array in arrays))
        return {name: to_host(value) for name, value in outputs.items()}

    def wait(self) -> None:
        """Until all that has been returned is complete."""
        if self.captures:
            torch.cuda.current_stream(self.device).synchronize()

    def _replay(self, given: list[Tensor]) -> dict[str, Tensor]:
        """The outputs, in memory that the next replay of any shape writes over."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in given)
        if key not in self._captured:
            self._captured[key] = self._capture(given)
        captured = self._captured[key]
        for buffer, tensor in zip(captured.inputs, given, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        captured.graph.replay()
        return captured.outputs

    def _capture(self, given: list[Tensor]) -> Captured:
        # Outside the pool: the arguments outlive the replays of other shapes.
        inputs = [tensor.to(self.device, non_blocking=True) for tensor in given]
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP):
                self.function(*inputs)
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Weights may be on their way to the device meanwhile, in another thread, which by default would be an error.
        mode = "thread_local"
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode=mode):
            outputs = self.function(*inputs)
        return Captured(graph, inputs, outputs)
