"""The `distgan` command, as `distgan` and as `python -m distgan`.

Importing it costs next to nothing, so that Ctrl-C in the first moments, while the rest is imported, ends the process as
it ends any other: by the signal, without a word.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run the command that was typed; returns the exit status."""
    if sys.getfilesystemencoding() != "utf-8":  # a locale that cannot name every file; workers inherit the variable
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "distgan", *sys.argv[1:]])
    interrupt = signal.getsignal(signal.SIGINT)
    quiet = signal.SIG_DFL if interrupt is signal.default_int_handler else interrupt  # ignored ones stay so
    signal.signal(signal.SIGINT, quiet)
    from distgan.cli import main as command

    try:
        signal.signal(signal.SIGINT, interrupt)
        return command()
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGINT, quiet)  # while the interpreter shuts down too


if __name__ == "__main__":
    # `python -m` puts the working folder first, where a file of the user's could take a package's name
    if sys.path and sys.path[0] == (os.getcwd() if sys.path[0] else ""):
        sys.path.append(sys.path.pop(0))
    sys.exit(main())
