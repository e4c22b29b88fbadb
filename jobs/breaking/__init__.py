"""Parts of `jobs/chaos.py`: the command under test, the faults, and what breaks things inside its processes."""
