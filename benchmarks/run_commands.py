"""Run imagetok commands one after the other in one process, some of them stopped on the way.

    python benchmarks/run_commands.py < commands.json

commands.json is a list of [words, steps]: the words of a command, and the number of optimizer steps
after which it receives SIGTERM, as from a scheduler, or null. Only torch and the command line are
used, so that this works with the source tree of any version on PYTHONPATH.
"""

import json
import os
import signal
import sys
from itertools import count
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook


def run(words: list[str], stop_after: int | None) -> None:
    """Run a command; SystemExit with a message where it ends with another code than it should."""
    from cli.main import main

    done = count(1)

    def stop_when_due(*_: object) -> None:
        if next(done) == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = register_optimizer_step_post_hook(stop_when_due)
    code: object = None
    try:
        main(words)
    except SystemExit as ended:
        code = ended.code
    finally:
        hook.remove()
    if (code or 0) != (0 if stop_after is None else 128 + signal.SIGTERM):
        raise SystemExit(f"imagetok {' '.join(words)}: exit code {code}")


def main() -> None:
    """The commands of standard input."""
    # The folder of this script is no part of what an installed program can import.
    sys.path.remove(str(Path(__file__).resolve().parent))
    for words, stop_after in json.load(sys.stdin):
        run(words, stop_after)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
