"""`distgan doctor`: what a run on this cluster would stumble over, found in seconds, with what to do about it.

An examiner (a Ray actor) on every node tells what is installed there, reads a clock, writes to the storage and reads
what the others wrote, and takes part in an all-reduce over the same interface and backend that the training uses.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from distgan.config import ConfigError, RayConfig
from distgan.orchestration.cluster import cluster
from distgan.orchestration.examiner import ANSWER_S, Examiner
from distgan.storage import Folder
from distgan.text import count, table

SKEW_S = 1.0
"""Clocks further apart mix up logs; S3 refuses requests from 15 minutes on."""
SLOW_BYTES_PER_S = 50e6
"""Bus bandwidth below which exchanging gradients dominates a step even of small networks: gigabit Ethernet has about
110e6.
"""
GIB = 2**30


@dataclass
class Findings:
    """What was seen, and what is wrong with it: problems stop a run, hints make it slow or unsafe."""

    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    exchange: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)


def examine(address: str | None, storage: str, *, mib: float = 32.0, as_json: bool = False) -> int:
    """Examine the cluster and print what was found; returns 0, or 1 if there are problems."""
    if (address or "").startswith("http"):
        raise ConfigError(
            f"--address {address}: that is the dashboard; allowed: HOST:6379 or auto on a node of the cluster, or from "
            f"elsewhere `distgan submit doctor --address {address} -- --storage ...`"
        )
    if mib <= 0:
        raise ConfigError(f"--mib {mib:g}: allowed: > 0")
    with cluster(RayConfig(address=address)) as found:
        findings = _examine(Folder(storage).uri, mib, private=found.private)
    print(json.dumps(asdict(findings), indent=1) if as_json else as_text(findings))
    return 1 if findings.problems else 0


def _examine(storage: str, mib: float, *, private: bool) -> Findings:
    import ray

    found = Findings()
    nodes = ray.nodes()
    names = {n["NodeID"]: f"{n['NodeManagerHostname']} ({n['NodeManagerAddress']})" for n in nodes}
    alive = [n for n in nodes if n["Alive"]]
    dead = [names[n["NodeID"]] for n in nodes if not n["Alive"]]
    if dead:
        found.hints.append(
            f"nodes that were lost since the cluster started: {', '.join(dead)}; `ray start --address ...` there "
            "brings one back"
        )
    at: dict[str, Any] = {}
    for node in alive:
        key, resources = node["NodeID"], node["Resources"]
        at[key] = _examiner_on(key)
        found.nodes[key] = {
            "name": names[key],
            "ray_cpus": resources.get("CPU", 0),
            "ray_gpus": resources.get("GPU", 0),
        }

    facts = _answers(found, {k: a.facts.remote() for k, a in at.items()}, "does not answer")
    for key, value in facts.items():
        found.nodes[key] |= value
    able = {key: at[key] for key in facts}
    judge_facts(found)
    _clocks(found, able)
    _storage(found, able, storage)
    workers = {k: able[k] for k in able if max(found.nodes[k]["ray_cpus"], found.nodes[k]["ray_gpus"]) >= 1}
    _exchange(found, workers, mib)
    if (
        not private
        and os.environ.get("RAY_AUTH_MODE") != "token"
        and any(not n["NodeManagerAddress"].startswith("127.") for n in alive)
    ):
        found.hints.append(
            "the cluster asks for no token: whoever reaches its ports can run programs on it; start every node with "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE"
        )
    for actor in at.values():
        ray.kill(actor)
    return found


def _examiner_on(node: str, gpus: int = 0) -> Any:
    """An examiner that runs on that node (Ray's ID) and no other."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pinned = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Examiner).options(num_cpus=0, num_gpus=gpus, scheduling_strategy=pinned).remote()


def judge_facts(found: Findings) -> None:
    """Problems and hints that follow from what the nodes have."""
    known = {key: node for key, node in found.nodes.items() if "ray" in node}
    for what in ("python", "ray", "torch", "distgan"):
        have: dict[str, list[str]] = {}
        for node in known.values():
            value = ".".join(node[what].split(".")[:2]) if what == "python" else node[what]
            have.setdefault(value, []).append(node["name"])
        if len(have) > 1:
            each = "; ".join(f"{value} on {', '.join(where)}" for value, where in have.items())
            (found.hints if what == "torch" else found.problems).append(
                f"versions of {what} differ: {each}; install the same everywhere, or use one image"
            )
    for node in known.values():
        name, gpus = node["name"], len(node["gpus"])
        if node["ray_gpus"] > gpus:
            found.problems.append(
                f"{name}: Ray offers {node['ray_gpus']:g} GPUs, PyTorch sees {gpus} (built for CUDA {node['cuda']}); "
                "install a driver and a PyTorch that fit each other, or start Ray there with --num-gpus 0"
            )
        if gpus > node["ray_gpus"]:
            found.hints.append(
                f"{name}: PyTorch sees {gpus} GPUs, Ray offers {node['ray_gpus']:g}; start Ray there with --num-gpus "
                f"{gpus}"
            )
        if node["interface"] is None and len(known) > 1:
            found.hints.append(
                f"{name}: no interface has the address {node['address']}; set GLOO_SOCKET_IFNAME and "
                "NCCL_SOCKET_IFNAME there"
            )
        if node["shm_free"] < GIB / 4 and gpus > 1:
            found.hints.append(
                f"{name}: {node['shm_free'] / GIB:.2g} GiB free in /dev/shm; NCCL wants more: --shm-size 1g or more "
                "for containers"
            )
        if node["disk_free"] < GIB:
            found.problems.append(
                f"{name}: {node['disk_free'] / GIB:.2g} GiB free in /tmp, where Ray keeps its files; make room"
            )
        if node["files"] < 4096:
            found.hints.append(f"{name}: {node['files']} files may be open at once; `ulimit -n 65536` before ray start")


def _clocks(found: Findings, able: dict[str, Any]) -> None:
    import ray

    for key, actor in able.items():
        tries = []
        for _ in range(5):
            before = time.time()
            with contextlib.suppress(ray.exceptions.RayError):
                there = ray.get(actor.clock.remote(), timeout=ANSWER_S)
                after = time.time()
                tries.append((after - before, there - (before + after) / 2))
        if not tries:
            continue
        trip, skew = min(tries)
        found.nodes[key] |= {"skew_s": skew, "skew_error_s": trip / 2}
        if abs(skew) - trip / 2 > SKEW_S:
            found.hints.append(
                f"{found.nodes[key]['name']}: its clock is {skew:+.1f} s off this node's; run chrony or another NTP "
                "client on both"
            )


def _storage(found: Findings, able: dict[str, Any], storage: str) -> None:
    folder = Folder(storage)
    folder.check_writable()
    room, size = f".distgan-doctor-{uuid.uuid4().hex[:8]}", 4 * 2**20
    names = {key: f"{room}/{key[:16]}" for key in able}
    try:
        hint = (
            f"{storage} cannot be written there; mount the shared folder on it, or give it the object store's "
            "credentials:"
        )
        wrote = _answers(found, {k: a.write.remote(storage, names[k], size) for k, a in able.items()}, hint)
        here = [names[k] for k in wrote]
        read = _answers(
            found, {k: able[k].read.remote(storage, here) for k in wrote}, f"{storage} cannot be read there:"
        )
    finally:
        folder.remove(room)
    for key, (missing, seconds) in read.items():
        found.nodes[key] |= {"write_mib_s": 4 / max(wrote[key], 1e-6), "read_mib_s": 4 / max(seconds, 1e-6)}
        others = [found.nodes[k]["name"] for k in wrote if names[k] in missing]
        if others:
            found.problems.append(
                f"{found.nodes[key]['name']}: does not see in {storage} what {', '.join(others)} wrote; allowed for "
                "several nodes: a folder that all of them mount at the same path, or s3://bucket/path"
            )


def _exchange(found: Findings, workers: dict[str, Any], mib: float) -> None:
    """An all-reduce between the GPUs of the nodes that can have workers, or between the nodes if one has no GPU."""
    import ray

    gpus = {key: int(found.nodes[key]["ray_gpus"]) for key in workers}
    on_gpu = bool(gpus) and all(gpus.values())
    if on_gpu:
        group = [_examiner_on(key, gpus=1) for key, n in gpus.items() for _ in range(n)]
        _, waiting = ray.wait([a.clock.remote() for a in group], num_returns=len(group), timeout=ANSWER_S / 2)
        if waiting:
            found.hints.append(
                f"{count(len(waiting), 'GPU')} in use: the exchange was not measured; run the doctor when they are free"
            )
            return
    else:
        group = list(workers.values())
    if len(group) < 2:
        return
    backend = "nccl" if on_gpu else "gloo"
    rendezvous = ray.get(group[0].rendezvous.remote(), timeout=ANSWER_S)
    asked = [actor.all_reduce.remote(rendezvous, rank, len(group), backend, mib) for rank, actor in enumerate(group)]
    try:
        seconds = max(ray.get(asked, timeout=2 * ANSWER_S))
    except Exception as error:
        found.problems.append(
            f"the workers cannot exchange tensors ({backend}): {_reason(error)}; open all TCP ports between the nodes, "
            "and if a node has several interfaces start Ray with --node-ip-address of the right one, or set "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        )
        return
    bandwidth = 2 * (len(group) - 1) / len(group) * mib * 2**20 / seconds
    found.exchange = {
        "workers": len(group),
        "backend": backend,
        "mib": mib,
        "seconds": seconds,
        "bus_bytes_per_s": bandwidth,
    }
    if bandwidth < SLOW_BYTES_PER_S:
        found.hints.append(
            f"workers exchange {bandwidth / 1e6:.0f} MB/s: gradients will be waited for; use a faster network between "
            "them (--node-ip-address of its interface), fewer workers, or larger batches"
        )


def _answers(found: Findings, asked: dict[str, Any], trouble: str) -> dict[str, Any]:
    """Results by node; nodes without one become problems."""
    import ray

    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)
    out: dict[str, Any] = {}
    for key, reference in asked.items():
        try:
            out[key] = ray.get(reference, timeout=0.1)
        except Exception as error:
            reason = _reason(error)
            name = found.nodes[key]["name"]
            if "No module named" in str(error):
                found.problems.append(
                    f"{name}: {reason}; install distgan there, use its image, or run this as `distgan submit doctor`"
                )
            else:
                found.problems.append(f"{name}: {trouble} ({reason})")
    return out


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if "Error" in line.partition(":")[0]] or lines
    return said[-1][:200] if said else type(error).__name__


def as_text(found: Findings) -> str:
    """A table of the nodes, the exchange, and what to do."""
    rows = [("NODE", "CPUS", "GPUS", "PYTHON", "RAY", "TORCH", "DISTGAN", "INTERFACE", "CLOCK", "WRITE", "READ")]
    for node in found.nodes.values():
        rows.append(
            (
                node["name"],
                f"{node['ray_cpus']:g}",
                f"{node['ray_gpus']:g}",
                *(str(node.get(what) or "-") for what in ("python", "ray", "torch", "distgan", "interface")),
                f"{node['skew_s'] * 1000:+.0f} ms" if "skew_s" in node else "-",
                *(f"{node[what]:.0f} MiB/s" if what in node else "-" for what in ("write_mib_s", "read_mib_s")),
            )
        )
    lines = [table(rows)]
    if found.exchange:
        e = found.exchange
        lines.append(
            f"all-reduce of {e['mib']:g} MiB between {e['workers']} workers ({e['backend']}): "
            f"{e['seconds'] * 1000:.1f} ms, {e['bus_bytes_per_s'] / 1e6:.0f} MB/s"
        )
    lines += [f"problem: {text}" for text in found.problems] + [f"hint: {text}" for text in found.hints]
    return "\n".join(lines if found.problems or found.hints else [*lines, "nothing is wrong"])
