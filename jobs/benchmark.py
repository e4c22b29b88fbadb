"""Benchmarks on this machine: contenders in interleaved rounds, a table, and JSON with every sample.

    python jobs/benchmark.py throughput                          distgan under Ray and without, the textbook loop, the
    bare limit
    python jobs/benchmark.py throughput --workers 2              two one-thread workers against one two-thread worker
    python jobs/benchmark.py throughput -- --model.name mlp      other settings of the run, as `distgan train` takes
    them
    python jobs/benchmark.py step                                options of the step, in turn in one process, by
    processor time;
                                                                 on a GPU by the wall's, and recorded or eager
    python jobs/benchmark.py profile --presets default r3gan     where a step's time goes: parts of the step, kinds of
    operations
    python jobs/benchmark.py scaling                             weak and strong scaling, what messages cost, a
    predicted cluster
    python jobs/benchmark.py startup                             from the command to the first step, one and two workers
    python jobs/benchmark.py busy                                beside a process that keeps one core busy
    python jobs/benchmark.py checkpoint --seconds 30             what a checkpoint every 30 s costs
    python jobs/benchmark.py evaluate                            what a measurement costs, part by part
    python jobs/benchmark.py data                                decoding, the cache, batches; beside ImageFolder and
    DataLoader
    python jobs/benchmark.py memory                              what a worker holds by stage, and what workers share
    python jobs/benchmark.py own-images ./photos --minutes 10    quality on folders, three seeds each
    python jobs/benchmark.py tune                                seconds a trial, beside Ray's documented patterns
    python jobs/benchmark.py stacked-mnist                       modes and KL of the preset, of a plain DCGAN, of parts
    of the recipe

A round runs every contender once, so that what else the machine does meets all alike; those of `throughput` live side
by side, and one goes on while the others are stopped. Reported are medians over the rounds with the lowest and the
highest (or the quartiles), processor time beside wall time, and ratios taken within rounds.
"""

from __future__ import annotations

import argparse
import signal
import sys

from benchmarks import (
    busy,
    checkpoint,
    data,
    evaluate,
    memory,
    own_images,
    profiles,
    scaling,
    stacked,
    startup,
    steps,
    throughput,
    tune,
)

COMMANDS = {
    "busy": (busy.add_arguments, busy.run),
    "checkpoint": (checkpoint.add_arguments, checkpoint.run),
    "data": (data.add_arguments, data.run),
    "evaluate": (evaluate.add_arguments, evaluate.run),
    "memory": (memory.add_arguments, memory.run),
    "own-images": (own_images.add_arguments, own_images.run),
    "profile": (profiles.add_arguments, profiles.run),
    "scaling": (scaling.add_arguments, scaling.run),
    "stacked-mnist": (stacked.add_arguments, stacked.run),
    "startup": (startup.add_arguments, startup.run),
    "step": (steps.add_arguments, steps.run),
    "throughput": (throughput.add_arguments, throughput.run),
    "tune": (tune.add_arguments, tune.run),
    "loop": (throughput.add_loop_arguments, throughput.run_loop),
}
"""Name -> (adds the arguments to a parser, runs with the parsed ones). Settings of the run stand after `--`, in
options.settings.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add_arguments, run) in COMMANDS.items():
        sub = commands.add_parser(name, help=(run.__doc__ or "").splitlines()[0], description=run.__doc__)
        add_arguments(sub)
        sub.set_defaults(run=run)
    words = sys.argv[1:]
    place = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:place])
    options.settings = words[place + 1 :]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # so that what was started is ended too
    return int(options.run(options) or 0)


if __name__ == "__main__":
    sys.exit(main())
