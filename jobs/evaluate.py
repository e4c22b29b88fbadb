"""`distgan evaluate` as a script, for job submission:

ray job submit --working-dir . -- python jobs/evaluate.py s3://bucket/runs/mnist
"""

import sys

from distgan.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
