"""What leaves a run: a generator that rebuilds itself, and pictures."""
