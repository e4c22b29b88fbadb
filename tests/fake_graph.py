"""CUDA graphs without a GPU, for what surrounds them: a replay runs the recorded function once more, on the recording's
own inputs.

A real recording computes nothing until its first replay; this one computes when it is made, and its first replay does
nothing more.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from distgan.training.cuda_graphs import GraphedBackward, _Graph


class Graph:
    again: Any
    made = False

    def replay(self) -> None:
        if self.made:
            self.again()
        self.made = True


def install(patch: Any) -> None:
    """`patch(object, name, value)`: monkeypatch.setattr, or setattr in a process of its own."""
    record = GraphedBackward._capture

    def with_replay(self: GraphedBackward, inputs: Any, how: Any) -> _Graph:
        made = record(self, inputs, how)

        def again() -> None:
            stats, _ = self._run(made.inputs, how)
            made.values.copy_(torch.stack([value.float() for value in stats.values()]))

        made.graph.again = again  # type: ignore[attr-defined]
        return made

    patch(GraphedBackward, "_capture", with_replay)
    patch(torch.cuda, "CUDAGraph", Graph)
    patch(torch.cuda, "graph", lambda graph, **how: nullcontext())
    patch(torch.cuda, "graph_pool_handle", lambda: "pool")
