"""Entry script of a search, for `ray job submit` and for notebooks that start a script: the same words as `distgan
tune`.

python jobs/tune.py --config mnist --search search-rates --storage s3://bucket/runs
"""

import sys

from distgan.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
