"""A command of imagetok in a process that stops, as by SIGTERM, when the one that started it ends.

python -m cli.cell COMMAND ARGUMENT... No click here.
"""

import os
import signal
import sys
import threading

from cli.main import main


def _stop_with_parent() -> None:
    """Standard input is a pipe that nobody writes to; the kernel closes it, whatever kills them."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    # Not sys.stdin.read(): its lock would be held for ever in the workers that a loader forks.
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    main(sys.argv[1:])
