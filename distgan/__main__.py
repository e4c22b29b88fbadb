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
    if interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from distgan.cli import main as command
    from distgan.terminal import prepare_streams

    prepare_streams()
    signal.signal(signal.SIGINT, interrupt)
    return command()


if __name__ == "__main__":
    # `python -m` puts the working folder first, where a file of the user's could take a package's name
    if sys.path[0] in ("", os.getcwd()):
        sys.path.append(sys.path.pop(0))
    sys.exit(main())
