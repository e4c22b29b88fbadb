"""From settings to a run that has ended: the one way in, for the command and for Python."""

from __future__ import annotations

from distgan.config import RunConfig


def start(config: RunConfig) -> int:
    """Check everything, train, and show the progress; returns the exit status: 0 complete, 130 stopped, to be resumed.

    Raises ConfigError before any worker starts where possible, RunError if the run failed.
    """
    from distgan.runs.prepare import already_complete, prepare, taken_back

    if config.engine == "ray":
        from distgan.orchestration.cluster import check_early

        check_early(config)
    prepared = prepare(config)
    if prepared.state == "complete":
        print(already_complete(prepared))
        return 0
    with taken_back(prepared):
        if config.engine == "local":
            from distgan.runs.local import run

            return run(prepared)
        from distgan.orchestration.train import run as run_on_ray

        return run_on_ray(prepared)
