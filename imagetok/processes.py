"""The processes of a distributed run, as Accelerate sees them."""

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def process_state(cpu: bool = False) -> PartialState:
    """Accelerate's state of this process.

    Heeds ACCELERATE_USE_CPU (`accelerate launch --cpu`) as Accelerator does and PartialState alone
    does not: without it, every process launched on a machine without a GPU believes to be alone.
    """
    return PartialState(cpu=cpu or parse_flag_from_env("ACCELERATE_USE_CPU"))
