"""CUDA graphs without a GPU, for what surrounds them: a replay runs the recorded function once more, on the recording's own inputs.

Unlike a real recording, this one also runs the function when it records: no good for networks that change in their forward pass.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from distgan.training.recording import Recorded, _Recording


class Graph:
    again: Any

    def replay(self) -> None:
        self.again()


def install(patch: Any) -> None:
    """`patch(object, name, value)`: monkeypatch.setattr, or setattr in a process of its own."""
    record = Recorded._record

    def with_replay(self: Recorded, inputs: Any, how: Any) -> _Recording:
        made = record(self, inputs, how)

        def again() -> None:
            stats, _ = self._run(made.inputs, how)
            made.values.copy_(torch.stack([value.float() for value in stats.values()]))

        made.graph.again = again  # type: ignore[attr-defined]
        return made

    patch(Recorded, "_record", with_replay)
    patch(torch.cuda, "CUDAGraph", Graph)
    patch(torch.cuda, "graph", lambda graph, **how: nullcontext())
    patch(torch.cuda, "graph_pool_handle", lambda: None)
