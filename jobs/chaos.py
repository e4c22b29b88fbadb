"""Break a run again and again, and show that nothing is lost: `python jobs/chaos.py --faults 20 --seed 0`.

A small run is trained twice with the same command, once left alone and once broken by faults that are picked with a
seed: signals to real processes (driver, raylet, GCS, workers), exceptions and a broken rendezvous inside the workers,
damaged checkpoints, a storage that is away or full, garbage in Ray's state, a second driver. Where the command ends, it
is run again, as a person or a job system would. At the end the final checkpoints must be equal bit for bit, and no
process and no temporary file may be left. Only processes that descend from the started commands are touched. Exit
status 0 if everything held.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from breaking.command import INTERVAL_KIMG, Command
from breaking.faults import DAMAGES, FAULTS


@dataclass
class Row:
    fault: str
    noticed_s: float
    lost: int
    recovered_s: float
    limit: int


@dataclass
class Campaign:
    run: Command
    pick: random.Random
    rows: list[Row] = field(default_factory=list)

    def wait(self, question: Callable[[], bool], what: str, limit_s: float = 600.0) -> float:
        """Seconds until the question is answered with yes. Time in which the whole machine stood still is left out."""
        elapsed, before = 0.0, time.monotonic()
        while not question():
            if elapsed > limit_s:
                raise RuntimeError(f"{what}: not within {limit_s:.0f} s; see {self.run.log}")
            time.sleep(0.1)
            now = time.monotonic()
            elapsed, before = elapsed + min(now - before, 5.0), now
        return elapsed

    def progress(self) -> int:
        """Images of the present workers; runs the command again if it has ended."""
        run = self.run
        if run.driver is None or run.driver.poll() is not None:
            if run.look().get("state") == "complete":
                raise RuntimeError("the run was complete before all faults were made: raise --kimg")
            run.start()
        return int(run.look(closely=False).get("nimg", 0))

    def strike(self, name: str) -> None:
        run = self.run
        target = self.progress() + self.pick.randint(2, int(1.5 * INTERVAL_KIMG)) * 1000
        self.wait(lambda: self.progress() >= target and len(run.workers()) == 2, f"{name}: the run goes on before")
        writer = run.look().get("writer")
        noticed_by = FAULTS[name](run, self.pick)
        reached = 0

        def also(question: Callable[[], bool]) -> Callable[[], bool]:
            """The question, while it is watched how far the workers come that were hit: they may live on for a
            moment.
            """

            def asked() -> bool:
                nonlocal reached
                answer = question()
                if run.last.get("writer") == writer:
                    reached = max(reached, int(run.last.get("nimg", 0)))
                return answer

            return asked

        recovered_s = noticed_s = self.wait(also(noticed_by), f"{name}: noticed")
        lost = 0
        if name not in ("second driver", "storage away"):  # those are to be shrugged off
            recovered_s += self.wait(
                also(lambda: self.progress() >= 0 and run.last.get("writer") != writer), f"{name}: workers are back"
            )
            lost = max(0, reached - int(run.last["writer"]["from_nimg"]))
        recovered_s += self.wait(lambda: self.progress() > reached, f"{name}: recovered")
        intervals = 2 if name in DAMAGES else 1
        # A checkpoint is written while the training goes on, and progress is told once in a kimg.
        self.rows.append(Row(name, noticed_s, lost, recovered_s, round((intervals * INTERVAL_KIMG + 2) * 1000)))
        row = self.rows[-1]
        print(
            f"{len(self.rows):3d}  {name:24s} noticed {row.noticed_s:5.1f} s  lost {row.lost:6d}  recovered "
            f"{row.recovered_s:5.1f} s",
            flush=True,
        )


def until_done(run: Command, limit_s: float) -> None:
    begin = time.monotonic()
    while run.look().get("state") != "complete" or (run.driver is not None and run.driver.poll() is None):
        if run.driver is None or run.driver.poll() is not None:
            run.start()
        if time.monotonic() - begin > limit_s:
            raise RuntimeError(f"{run.folder}: not complete within {limit_s:.0f} s; see {run.log}")
        time.sleep(0.3)


def differing(a: Any, b: Any, path: str = "") -> list[str]:
    """Names of what is not equal bit for bit in two nested states."""
    import torch

    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        return [
            d
            for key in a.keys() | b.keys()
            for d in (differing(a[key], b[key], f"{path}/{key}") if key in a and key in b else [f"{path}/{key}"])
        ]
    if isinstance(a, list):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differing(x, y, f"{path}/{i}")]
    return [] if a == b else [path]


def temporaries(folder: Path) -> list[str]:
    return [
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if p.name.endswith(".tmp") or p.name.startswith((".distgan", "distgan-copy"))
    ]


def table(rows: list[Row]) -> str:
    lines = ["| fault | noticed after | images lost | recovered after |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {r.fault} | {r.noticed_s:.1f} s | {r.lost:,} | {r.recovered_s:.1f} s |" for r in rows]
    return "\n".join(lines)


def _bucket() -> str:
    """URI of a folder in a bucket of a new S3 server in this process; the credentials go into the environment."""
    import urllib.request

    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = f"127.0.0.1:{server.get_host_and_port()[1]}"
    urllib.request.urlopen(urllib.request.Request(f"http://{endpoint}/chaos", method="PUT")).close()
    os.environ.update(
        AWS_ACCESS_KEY_ID="chaos", AWS_SECRET_ACCESS_KEY="chaos", AWS_DEFAULT_REGION="us-east-1", NO_PROXY="127.0.0.1"
    )
    return f"s3://chaos/runs?endpoint_override={endpoint}&scheme=http"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--only", help="comma-separated: take them from these alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kimg", type=float, help="length of the run (default: enough for the faults)")
    parser.add_argument("--work", help="folder to work in (default: a temporary one, removed if everything held)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--s3", action="store_true", help="keep the runs in an S3 endpoint, a moto server that is started for this"
    )
    where.add_argument(
        "--storage", help="keep the runs there, for example 's3://bucket/runs?endpoint_override=HOST:PORT&scheme=http'"
    )
    parser.add_argument("--out", help="write the table there as well")
    options = parser.parse_args(arguments)
    names = [n.strip() for n in options.only.split(",")] if options.only else list(FAULTS)
    if set(names) - set(FAULTS):
        parser.error(f"--only: allowed: {', '.join(FAULTS)}")
    pick = random.Random(options.seed)
    plan: list[str] = []
    while len(plan) < options.faults:  # every kind as often as the others, in random order
        plan += pick.sample(names, len(names))
    plan = plan[: options.faults]
    kimg = options.kimg or 40 + 2.0 * INTERVAL_KIMG * len(plan)
    work = Path(options.work or tempfile.mkdtemp(prefix="chaos-"))
    work.mkdir(parents=True, exist_ok=True)
    storage = options.storage or (_bucket() if options.s3 else str(work / "runs"))

    calm, wild = Command("calm", storage, kimg, work), Command("wild", storage, kimg, work)
    begin = time.monotonic()
    until_done(calm, 1800)
    print(f"undisturbed: {kimg:g} kimg in {time.monotonic() - begin:.0f} s", flush=True)
    begin, campaign = time.monotonic(), Campaign(wild, pick)
    try:
        for name in plan:
            campaign.strike(name)
        until_done(wild, 1800)
    except BaseException:
        wild.end()
        raise
    print(f"disturbed: {len(plan)} faults, {time.monotonic() - begin:.0f} s", flush=True)

    from distgan.training.checkpoint import CheckpointStore

    states = [CheckpointStore(run.folder).newest() for run in (calm, wild)]
    assert states[0] is not None
    assert states[1] is not None
    deadline = time.monotonic() + 15
    for run in (calm, wild):
        while run.look() and run.ours and time.monotonic() < deadline:
            time.sleep(0.3)
    problems = [f"differs from the undisturbed run: {name}" for name in differing(states[0][1], states[1][1])]
    problems += [f"process left: {p.pid} {p.command[:80]}" for p in [*wild.ours.values(), *calm.ours.values()]]
    problems += [f"temporary file left: {name}" for name in temporaries(work)]
    problems += [
        f"{row.fault}: {row.lost} images lost, more than {row.limit}" for row in campaign.rows if row.lost > row.limit
    ]
    text = table(campaign.rows)
    print(text)
    for problem in problems:
        print(f"NOT HELD: {problem}")
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    if not problems:
        print(
            f"held: complete, final state of {states[1][0]:,} images bit-identical, no process and no temporary file "
            "left"
        )
        if not options.work:
            shutil.rmtree(work)
    (work / "result.json").write_text(
        json.dumps({"problems": problems, "rows": [vars(r) for r in campaign.rows]})
    ) if work.exists() else None
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
