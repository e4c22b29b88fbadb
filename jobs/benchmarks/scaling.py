"""`scaling`: what more workers bring, what their messages cost, and what that would mean on machines that are not
here.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.measuring import in_turn, print_table, spread, write_found
from benchmarks.parts import PRESETS, read_settings

SIZES = tuple(4 * 2**i for i in range(8, 24, 2)) + (32 * 2**20,)
"""Bytes of the messages that are timed: 1 KiB to 32 MiB."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=int, default=2, help="most workers, of one thread each (default: %(default)s)"
    )
    parser.add_argument(
        "--presets", nargs="+", choices=PRESETS, default=list(PRESETS), help="what is trained (default: all)"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="how often each contender trains a window (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a window (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=30, help="all-reduces of each size (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: benchmark-scaling.json)")
    assumed = parser.add_argument_group("the predicted cluster; every one is an assumption, none was measured here")
    for field, default in vars(Cluster()).items():
        words = HELP[field] + " (default: %(default)s)"
        assumed.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default, help=words)


def run(options: argparse.Namespace) -> int:
    """Workers 1..N, weak and strong, against one process of as many threads; alpha and beta of all-reduce; a prediction
    to 1,024 GPUs.

    Weak: every worker keeps its batch, so that the global batch grows; strong: the global batch stays. All groups of
    workers are started once and take turns. `apart` are as many processes that do not speak to each other: what they
    lose is the machine's (memory, caches), and what joined workers lose beyond that is communication.
    """
    found = {}
    for name in options.presets:
        config = read_settings(options, name)
        print(f"{name}: starting the contenders", file=sys.stderr, flush=True)
        found[name] = measure(config, options.workers, options.rounds, options.seconds, options.repeats)
        show(name, found[name])
    cluster = Cluster(**{field: getattr(options, field) for field in vars(Cluster())})
    predictions = {}
    for name, result in found.items():
        messages = [*result["gradients"]["d"], *result["gradients"]["g"]]
        predictions[name] = predict_all(messages, cluster)
        show_prediction(name, messages, cluster, predictions[name])
    write_found(options, "scaling", found, predictions=predictions, assumed=vars(cluster))
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def contenders(most: int, batch: int) -> dict[str, dict[str, Any]]:
    """name -> workers, threads of each, the global batch, whether they are joined."""
    counts = sorted({2**i for i in range(1, most.bit_length()) if 2**i <= most} | ({most} if most > 1 else set()))
    made: dict[str, dict[str, Any]] = {"base": {"workers": 1, "threads": 1, "batch": batch, "joined": True}}
    for n in counts:
        made[f"weak {n}"] = {"workers": n, "threads": 1, "batch": n * batch, "joined": True}
        made[f"weak {n}: threads"] = {"workers": 1, "threads": n, "batch": n * batch, "joined": True}
        made[f"weak {n}: apart"] = {"workers": n, "threads": 1, "batch": batch, "joined": False}
        made[f"strong {n}"] = {"workers": n, "threads": 1, "batch": batch, "joined": True}
        made[f"strong {n}: threads"] = {"workers": 1, "threads": n, "batch": batch, "joined": True}
    return made


def measure(config: Any, most: int, rounds: int, seconds: float, repeats: int) -> dict[str, Any]:
    """All contenders' windows, the all-reduces of each group, and the sizes of the gradients' messages."""
    from benchmarks.workers import Group

    made = contenders(most, config.batch_size)
    with ExitStack() as stack:
        groups, steps = {}, {}
        gradients: dict[str, list[int]] = {}
        for name, c in made.items():
            settings = config.model_copy(update={"batch_size": c["batch"]}).model_dump(mode="json")
            groups[name] = group = stack.enter_context(Group(settings, c["workers"], c["threads"], joined=c["joined"]))
            for command in ("start", "open"):
                group.ask(command)
            gradients = group.ask("build")[0]["gradients"]
            group.ask("train", steps=2)  # allocators and caches settle
            taken = max(answer["seconds"] for answer in group.ask("train", steps=2)) / 2
            steps[name] = max(2, round(seconds / taken))

        def window(name: str) -> dict[str, float]:
            answers = groups[name].ask("train", steps=steps[name])
            wall = max(answer["seconds"] for answer in answers)
            images = answers[0]["images"] * (1 if made[name]["joined"] else made[name]["workers"])
            cpu = sum(answer["cpu_s"] for answer in answers)
            return {"images_per_s": images / wall, "step_s": wall / steps[name], "cpu_s_per_kimg": cpu / images * 1000}

        windows = in_turn(
            {name: lambda name=name: window(name) for name in made},
            rounds,
            lambda w: f"{w['images_per_s']:.0f} images/s",
        )  # type: ignore[misc]
        reduces = {
            str(c["workers"]): groups[name].ask("all_reduce", sizes=SIZES, repeats=repeats)[0]["seconds"]
            for name, c in made.items()
            if c["joined"] and name.startswith("weak") and c["workers"] > 1
        }
    fits = {}
    for workers, times in reduces.items():
        sizes = [int(size) for size in times]
        alpha, beta = fit([float(size) for size in sizes], list(times.values()))
        fits[workers] = {"alpha_s": alpha, "beta_s_per_byte": beta}
    return {"contenders": made, "windows": windows, "gradients": gradients, "all_reduce_s": reduces, "fits": fits}


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(alpha, beta) of seconds = alpha + beta * bytes: least squares of the relative errors, so that small messages
    count too; neither is below 0.
    """
    import numpy as np

    m, t = np.asarray(sizes, float), np.asarray(seconds, float)
    design = np.stack([1 / t, m / t], axis=1)
    alpha, beta = np.linalg.lstsq(design, np.ones_like(t), rcond=None)[0]
    if alpha < 0:
        alpha, beta = 0.0, float((m / t).sum() / ((m / t) ** 2).sum())
    elif beta < 0:
        alpha, beta = float((1 / t).sum() / ((1 / t) ** 2).sum()), 0.0
    return float(alpha), float(beta)


# ---------------------------------------------------------------------------------------------------------------------
# Showing


def show(preset: str, found: dict[str, Any]) -> None:
    """Tables of one preset: rates, efficiencies, messages, and the model beside what was measured."""
    windows, made = found["windows"], found["contenders"]
    rows = []
    for name, c in made.items():
        each, kind = windows[name], "" if c["joined"] else " each for itself"
        rows.append(
            [
                name,
                f"{c['workers']} x {c['threads']}{kind}",
                str(c["batch"]),
                spread([w["images_per_s"] for w in each]),
                spread([w["step_s"] * 1000 for w in each], 1),
                spread([w["cpu_s_per_kimg"] for w in each], 2),
            ]
        )
    print(f"\n{preset}: medians (lowest - highest) of {len(windows['base'])} windows")
    print_table(["", "workers x threads", "batch", "images/s", "ms a step", "CPU s per kimg"], rows)

    rows = []
    for n, (weak, strong) in efficiencies(found).items():
        rows += [[f"weak, {n} workers", *(spread(weak[key], 3) for key in ("base", "threads", "apart"))]]
        rows += [
            [
                f"strong, {n} workers",
                *(spread(strong[key], 3) if key in strong else "-" for key in ("base", "threads", "apart")),
            ]
        ]
    print(
        "\nefficiency within rounds: rate / (workers x base); rate / one process of as many threads; rate / as many "
        "apart"
    )
    print_table(["", "of base x n", "of as many threads", "of apart"], rows)

    for n, times in found["all_reduce_s"].items():
        alpha, beta = found["fits"][n]["alpha_s"], found["fits"][n]["beta_s_per_byte"]
        rows = [[_bytes(int(m)), f"{t * 1e3:.3f}", f"{(alpha + beta * int(m)) * 1e3:.3f}"] for m, t in times.items()]
        print(
            f"\nall-reduce of {n} workers: alpha {alpha * 1e6:.0f} us + bytes / "
            f"({1e-9 / beta if beta else math.inf:.2f} GB/s)"
        )
        print_table(["message", "measured ms", "fitted ms"], rows)
    rows = []
    for n, model in explained(found).items():
        rows.append(
            [
                f"{n} workers",
                *(f"{model[key] * 1e3:.2f}" for key in ("compute_s", "messages_s", "measured_s", "exposed_s")),
            ]
        )
    sizes = {player: ", ".join(_bytes(m) for m in messages) for player, messages in found["gradients"].items()}
    print(f"\nms a weak step; messages of D: {sizes['d']}; of G: {sizes['g']}")
    print_table(["", "apart (computing)", "messages by the fit", "joined, measured", "joined - apart"], rows)


def efficiencies(found: dict[str, Any]) -> dict[int, tuple[dict[str, list[float]], dict[str, list[float]]]]:
    """Workers -> ratios of rates within rounds, weak and strong."""
    rates = {name: [w["images_per_s"] for w in each] for name, each in found["windows"].items()}
    counts = sorted({c["workers"] for c in found["contenders"].values() if c["workers"] > 1})

    def over(a: str, b: str, times: float = 1.0) -> list[float]:
        return [x / (y * times) for x, y in zip(rates[a], rates[b], strict=True)]

    result = {}
    for n in counts:
        name, threads = f"weak {n}", f"weak {n}: threads"
        weak = {"base": over(name, "base", n), "threads": over(name, threads), "apart": over(name, f"weak {n}: apart")}
        strong = {"base": over(f"strong {n}", "base", n), "threads": over(f"strong {n}", f"strong {n}: threads")}
        result[n] = (weak, strong)
    return result


def explained(found: dict[str, Any]) -> dict[int, dict[str, float]]:
    """Workers -> the weak step's seconds: computing alone, its messages by the fit, as measured, and what joining
    costs.
    """
    result = {}
    for n in sorted({c["workers"] for c in found["contenders"].values() if c["workers"] > 1}):
        fitted = found["fits"][str(n)]
        messages = [m for player in ("d", "g") for m in found["gradients"][player]]
        apart, joined = (
            statistics.median(w["step_s"] for w in found["windows"][name]) for name in (f"weak {n}: apart", f"weak {n}")
        )
        result[n] = {
            "compute_s": apart,
            "messages_s": sum(fitted["alpha_s"] + fitted["beta_s_per_byte"] * m for m in messages),
            "measured_s": joined,
            "exposed_s": statistics.median(
                a["step_s"] - b["step_s"]
                for a, b in zip(found["windows"][f"weak {n}"], found["windows"][f"weak {n}: apart"], strict=True)
            ),
        }
    return result


def _bytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 1024:.0f} KiB"


# ---------------------------------------------------------------------------------------------------------------------
# Predicting


@dataclass(frozen=True)
class Cluster:
    """A cluster that is not here. Nothing of it was measured."""

    gpu_step_ms: float = 20.0
    gpu_batch: int = 64
    fixed_share: float = 0.25
    gpus_per_node: int = 8
    node_gb_per_s: float = 300.0
    net_gb_per_s: float = 40.0
    node_latency_us: float = 5.0
    net_latency_us: float = 15.0
    overlap: float = 0.5
    jitter: float = 0.01
    most_gpus: int = 1024


HELP = {
    "gpu_step_ms": "ms of both players' step on one GPU",
    "gpu_batch": "images a GPU sees in that step",
    "fixed_share": "share of it that does not shrink with the batch (launches, optimisers)",
    "gpus_per_node": "GPUs that share a node's own links",
    "node_gb_per_s": "GB/s of each GPU in all-reduces within a node",
    "net_gb_per_s": "GB/s of each GPU between nodes",
    "node_latency_us": "us of a hop within a node",
    "net_latency_us": "us of a hop between nodes",
    "overlap": "share of the messages' time that hides behind the backward pass",
    "jitter": "spread (standard deviation / mean) of a GPU's step; all wait for the slowest",
    "most_gpus": "where the table ends",
}


def all_reduce_s(size: float, gpus: int, cluster: Cluster) -> float:
    """Seconds of an all-reduce of `size` bytes. Within a node a ring; between nodes every GPU exchanges its share in a
    ring for its bytes and in a tree for its latency, as NCCL's trees do (Thakur et al., 2005, for the terms).
    """
    if gpus == 1:
        return 0.0
    inside, nodes = min(gpus, cluster.gpus_per_node), math.ceil(gpus / cluster.gpus_per_node)
    seconds = 2 * (inside - 1) * cluster.node_latency_us * 1e-6 + 2 * (inside - 1) / inside * size / (
        cluster.node_gb_per_s * 1e9
    )
    if nodes > 1:
        seconds += 2 * math.ceil(math.log2(nodes)) * cluster.net_latency_us * 1e-6
        seconds += 2 * (nodes - 1) / nodes * (size / inside) / (cluster.net_gb_per_s * 1e9)
    return seconds


def predict(messages: Sequence[int], gpus: int, images_per_gpu: float, cluster: Cluster) -> dict[str, float]:
    """One step on so many GPUs: seconds of computing, of messages, of waiting for the slowest, together; images/s;
    efficiency.
    """
    full = cluster.gpu_step_ms / 1000
    share = images_per_gpu / cluster.gpu_batch
    compute = full * (cluster.fixed_share + (1 - cluster.fixed_share) * share)
    sent = sum(all_reduce_s(m, gpus, cluster) for m in messages)
    # The largest of n draws of a normal distribution lies about sqrt(2 ln n) deviations above the mean
    waiting = compute * cluster.jitter * math.sqrt(2 * math.log(gpus)) if gpus > 1 else 0.0
    step = compute + waiting + (1 - cluster.overlap) * sent
    rate, alone = gpus * images_per_gpu / step, cluster.gpu_batch / full
    return {
        "compute_s": compute,
        "messages_s": sent,
        "waiting_s": waiting,
        "step_s": step,
        "images_per_s": rate,
        "efficiency": rate / (gpus * alone),
    }


def predict_all(messages: Sequence[int], cluster: Cluster) -> list[dict[str, float]]:
    """1, 2, 4, ... GPUs: weak (each keeps gpu_batch images) and, from 8 on, strong (8 x gpu_batch images, shared)."""
    rows = []
    for power in range(int(math.log2(cluster.most_gpus)) + 1):
        gpus = 2**power
        weak = predict(messages, gpus, cluster.gpu_batch, cluster)
        strong = (
            predict(messages, gpus, STRONG_GPUS * cluster.gpu_batch / gpus, cluster) if gpus >= STRONG_GPUS else None
        )
        rows.append({"gpus": gpus, **weak, **({f"strong_{k}": v for k, v in strong.items()} if strong else {})})
    return rows


STRONG_GPUS = 8
"""Strong scaling begins with so many GPUs at gpu_batch images each."""


def show_prediction(preset: str, messages: Sequence[int], cluster: Cluster, rows: list[dict[str, float]]) -> None:
    table = []
    for row in rows:
        cells = [f"{row[key] * 1e3:.2f}" for key in ("messages_s", "waiting_s", "step_s")]
        cells += [f"{row['images_per_s']:,.0f}", f"{row['efficiency']:.3f}"]
        cells += (
            [f"{row['strong_step_s'] * 1e3:.2f}", f"{row['strong_images_per_s']:,.0f}"]
            if "strong_step_s" in row
            else ["-", "-"]
        )
        table.append([f"{row['gpus']:,} GPUs", *cells])
    print(
        f"\n{preset}: PREDICTED, not measured; {sum(messages) / 2**20:.1f} MiB of gradients in {len(messages)} "
        "messages; assumed:"
    )
    print("  " + "\n  ".join(f"{HELP[field]}: {value:g}" for field, value in vars(cluster).items()))
    print(f"strong: {STRONG_GPUS * cluster.gpu_batch} images a step, shared by {STRONG_GPUS} GPUs and more")
    print_table(
        ["", "messages ms", "waiting ms", "weak step ms", "images/s", "efficiency", "strong step ms", "images/s"], table
    )
