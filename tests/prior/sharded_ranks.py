"""imagetok on CPU processes, to which FSDP or DeepSpeed distributes weights.

Accelerate distributes nothing on CPUs. Here it is told, once the processes are connected, that they
have GPUs; all the rest is as in any run. With KILL_AT, the process that writes the logs is killed
after that step.
"""

import os
import signal
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from cli.main import main
from imagetok.processes import process_state
from imagetok.training.metrics_log import JsonLines

genuine = JsonLines.append


def append(self: JsonLines, record: dict[str, Any]) -> None:
    """Write a record; die after the chosen step."""
    genuine(self, record)
    if record["step"] == int(os.environ.get("KILL_AT", "-1")):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    process_state(cpu=True, patience=None)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    os.environ["ACCELERATE_USE_CPU"] = "false"
    JsonLines.append = append
    main()
