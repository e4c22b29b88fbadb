"""`distgan train` as a script, for job submission:

ray job submit --working-dir . -- python jobs/train.py --config mnist
"""

import sys

from distgan.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
