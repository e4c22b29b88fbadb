"""`profile`: where the time of a training step goes, from a trace of torch's profiler."""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.measuring import print_table, write_found
from benchmarks.parts import PRESETS, build, describe_run, read_settings, settle

PART = "part: "
"""Beginning of the names of the ranges that the parts of a step leave in a trace."""

KINDS = (
    ("convolution, backward", ("convolution_backward", "conv_backward", "slow_conv2d_backward")),
    ("convolution", ("conv",)),
    ("matrix product", ("addmm", "aten::mm", "aten::bmm", "linear", "matmul")),
    ("normalisation", ("batch_norm", "group_norm", "layer_norm")),
    ("optimiser and averages", ("fused_adam", "_foreach_")),
    ("compiled kernels", ("inductor", "triton", "torch-compiled", "compiledfunction", "cpp_fused", "call_function")),
    ("messages", ("gloo:", "nccl:", "all_reduce", "allreduce", "c10d")),
    ("sums and means", ("aten::sum", "aten::mean", "aten::norm", "linalg_vector_norm", "aten::max", "aten::var")),
    (
        "copies, layouts",
        ("copy_", "aten::to", "aten::cat", "aten::clone", "fill_", "zero_", "aten::index", "aten::stack"),
    ),
)
"""Kinds of operations: the first one of whose words stands in an operation's name has it; the rest is element by
element.
"""

RANGES = ("Optimizer.", "DistributedDataParallel.", "ProfilerStep")
"""Beginnings of names that torch gives to ranges, which are no operations: their own time is Python's."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--presets", nargs="+", choices=PRESETS, default=["default"], help="what is trained (default: default)"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps in the trace (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads (default: all cores)")
    parser.add_argument(
        "--trace", metavar="FILE", help="write the trace of the last preset, for chrome://tracing or Perfetto"
    )
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: benchmark-profile.json)")


def run(options: argparse.Namespace) -> int:
    """Where a step's time goes: by part of the step, by kind of operation, and what Python adds; from a torch profiler
    trace.

    Shares are of the traced steps' wall time. Tracing slows a step down, its many small operations most: the time of
    steps without it stands beside. What no operation accounts for is Python, autograd's own bookkeeping and the trace.
    """
    import torch

    threads = options.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    found = {}
    for name in options.presets:
        parts = build(read_settings(options, name))
        found[name] = measure(parts, options.steps, options.trace)
        settings = f"{describe_run(parts.config, parts.images)}, batch {parts.config.batch_size}, {threads} threads"
        show(f"{name}: {settings}", found[name])
    write_found(options, "profile", found)
    return 0


def measure(parts: Any, steps: int, trace: str | None = None) -> dict[str, Any]:
    """Seconds a step without the profiler, and with it; of the latter, seconds by part and by kind of operation."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if parts.context.device.type == "cuda" else [])
    for _ in range(3):
        parts.step()
    plain = _times(parts, steps)
    with in_parts(parts) as missing:
        parts.step()
        with profile(activities=activities, acc_events=True) as found:
            traced = _times(parts, steps)
    if trace:
        found.export_chrome_trace(trace)
    by_part, by_kind, operations, calls = summarise(found.events(), steps)
    return {
        "step_s": statistics.median(plain),
        "traced_step_s": sum(traced) / steps,
        "parts_s": by_part,
        "kinds_s": by_kind,
        "operations_s": operations,
        "calls_a_step": calls,
        "not_marked": missing,
    }


def _times(parts: Any, steps: int) -> list[float]:
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        parts.step()
        settle(parts.context.device)
        times.append(time.perf_counter() - start)
    return times


@contextlib.contextmanager
def in_parts(parts: Any) -> Iterator[list[str]]:
    """While it lasts, the parts of a step leave ranges in a trace. Gives the names of those that this version of the
    step lacks.
    """
    import torch

    from distgan.gan import step as players
    from distgan.training import train_step

    step, state = parts.step, parts.state
    wanted: list[tuple[Any, str, str]] = [
        (parts.feed, "batch", "real images"),
        (step.inputs, "draws", "latents and labels drawn"),
        (step, "augment", "augmentation"),
        (train_step, "d_step_loss", "D: forward, losses"),
        (players, "input_gradients", "D: penalties' inner gradient"),
        (train_step, "g_step_loss", "G: forward, losses"),
        (state.d_opt, "step", "D: optimiser"),
        (state.g_opt, "step", "G: optimiser"),
        (state.ema, "update", "EMA of G"),
        (train_step, "average_buffers", "buffers averaged"),
        (state, "schedule", "schedules"),
    ]
    undo: list[tuple[Any, str, Any, bool]] = []
    missing = []
    backward = torch.autograd.backward
    turn = {"player": "G"}

    def tracked(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function(f"{PART}{turn['player']}: backward"):
            return backward(tensors, *args, **kwargs)

    for owner, name, text in wanted:
        own = getattr(owner, name, None)
        if own is None:
            if not (name == "augment" and parts.config.augment.kind == "none"):
                missing.append(text)
            continue
        undo.append((owner, name, own, name in vars(owner)))
        player = "D" if name == "d_step_loss" else "G" if name == "g_step_loss" else None
        setattr(owner, name, _ranged(own, text, (lambda p=player: turn.update(player=p)) if player else None))
    torch.autograd.backward = tracked  # type: ignore[assignment]
    try:
        yield missing
    finally:
        torch.autograd.backward = backward
        for owner, name, own, was_own in undo:
            if was_own:
                setattr(owner, name, own)
            else:
                delattr(owner, name)


def _ranged(function: Callable[..., Any], text: str, first: Callable[[], Any] | None) -> Callable[..., Any]:
    import torch

    def call(*args: Any, **kwargs: Any) -> Any:
        if first is not None:
            first()
        with torch.profiler.record_function(PART + text):
            return function(*args, **kwargs)

    return call


def summarise(events: Any, steps: int) -> tuple[dict[str, float], dict[str, float], dict[str, float], float]:
    """(seconds a step by part, by kind of operation, of the twelve longest operations, operations a step) from a
    profiler's events.

    A part's time is its range's without the ranges inside it. An operation's is its own, without those that it calls.
    """
    by_part: dict[str, float] = defaultdict(float)
    by_kind: dict[str, float] = defaultdict(float)
    operations: dict[str, float] = defaultdict(float)
    calls = 0
    for event in events:
        name = event.name
        if name.startswith(PART):
            by_part[name.removeprefix(PART)] += event.cpu_time_total
            above = event.cpu_parent
            while above is not None and not above.name.startswith(PART):
                above = above.cpu_parent
            if above is not None:
                by_part[above.name.removeprefix(PART)] -= event.cpu_time_total
        elif event.self_cpu_time_total > 0 and not name.startswith(RANGES):
            by_kind[kind_of(name)] += event.self_cpu_time_total
            operations[name] += event.self_cpu_time_total
            calls += 1

    def each(sums: dict[str, float]) -> dict[str, float]:
        return {name: us / 1e6 / steps for name, us in sorted(sums.items(), key=lambda item: -item[1])}

    return each(by_part), each(by_kind), dict(list(each(operations).items())[:12]), calls / steps


def kind_of(name: str) -> str:
    """The kind of an operation, by its name in a trace."""
    plain = name.lower()
    if plain.startswith("autograd::") or "evaluate_function" in plain or "backward0" in plain or "backward1" in plain:
        return "autograd's bookkeeping"
    return next((kind for kind, words in KINDS if any(word in plain for word in words)), "element by element, other")


def show(title: str, found: dict[str, Any]) -> None:
    whole = found["traced_step_s"]

    def table(header: str, sums: dict[str, float], rest: str) -> None:
        left = whole - sum(sums.values())
        rows = [[name, f"{s * 1e3:.2f}", f"{s / whole:.1%}"] for name, s in [*sums.items(), (rest, left)]]
        print_table([header, "ms a step", "share"], rows)

    print(
        f"\n{title}\n{found['step_s'] * 1e3:.1f} ms a step; {whole * 1e3:.1f} ms while traced, "
        f"{found['calls_a_step']:.0f} operations"
    )
    table("part of the step", found["parts_s"], "between the parts")
    print()
    table("kind of operation", found["kinds_s"], "no operation: Python")
    print()
    rows = [[name[:60], f"{s * 1e3:.2f}", f"{s / whole:.1%}"] for name, s in found["operations_s"].items()]
    print_table(["longest operations", "ms a step", "share"], rows)
    if found["not_marked"]:
        print(
            "not to be found in this version of the step, and so in `between the parts`: "
            f"{', '.join(found['not_marked'])}"
        )
