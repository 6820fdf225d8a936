"""Weights that FSDP or DeepSpeed distribute over processes, and the whole ones that are stored.

Accelerate is told to distribute them by the file of `accelerate launch --config_file`.
"""

import copy
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from imagetok.errors import ConfigError
from imagetok.training.config import TrainConfig

_KINDS = {DistributedType.FSDP: "FSDP", DistributedType.DEEPSPEED: "DeepSpeed"}


def sharding_of(accelerator: Accelerator) -> str | None:
    """Return what distributes the weights of a run, `FSDP` or `DeepSpeed`; None if nothing does."""
    return _KINDS.get(DistributedType(accelerator.distributed_type))


def set_up_sharding(accelerator: Accelerator, config: TrainConfig) -> None:
    """Refuse what distributed weights do not allow, and give DeepSpeed the settings of the run.

    Raises ConfigError for a setting of the run, or of Accelerate's own config.
    """
    kind = sharding_of(accelerator)
    if kind is None:
        return
    if config.ema_decay is not None:
        raise ConfigError(
            f"train.ema_decay: expected null, because {kind} distributes the weights over "
            f"processes, and their moving average is not kept so; found {config.ema_decay}; set "
            "train.ema_decay=null, or start without --config_file"
        )
    if kind == "FSDP":
        _check_fsdp(accelerator.state.fsdp_plugin)
    else:
        _set_up_deepspeed(accelerator, config)


def refuse_sharding(accelerator: Accelerator) -> None:
    """Raise ConfigError if the weights of a tokenizer would be distributed."""
    kind = sharding_of(accelerator)
    if kind is not None:
        raise ConfigError(
            f"kind: tokenizer cannot be trained with {kind}, because every process updates the "
            "whole codebook; start it without --config_file (tokenizers are small; FSDP and "
            "DeepSpeed are for large priors)"
        )


def _check_fsdp(plugin: Any) -> None:
    if plugin.fsdp_version != 2:
        raise ConfigError(
            f"Accelerate's config: fsdp_version: expected 2, found {plugin.fsdp_version}; see "
            "configs/accelerate/fsdp.yaml"
        )
    found = plugin.state_dict_type.name
    if found != "FULL_STATE_DICT":
        raise ConfigError(
            "Accelerate's config: fsdp_state_dict_type: expected FULL_STATE_DICT, because other "
            f"checkpoints are pickles, which can run any code when they are read; found {found}; "
            "see configs/accelerate/fsdp.yaml"
        )


def _set_up_deepspeed(accelerator: Accelerator, config: TrainConfig) -> None:
    if config.accumulation > 1:
        raise ConfigError(
            "train.accumulation: expected 1 with DeepSpeed, which counts micro-batches by itself, "
            f"found {config.accumulation}; set train.accumulation=1, or use FSDP"
        )
    if config.autocast != "no":
        raise ConfigError(
            f"train.precision: expected fp32 with DeepSpeed, found {config.autocast}, because "
            "DeepSpeed keeps the weights themselves in half precision, and an artifact has float32 "
            "ones; use FSDP for half precision"
        )
    plugin: Any = accelerator.state.deepspeed_plugin
    settings = plugin.deepspeed_config
    settings["train_micro_batch_size_per_gpu"] = config.batch_size // accelerator.num_processes
    settings["gradient_clipping"] = config.clip_norm or 0.0


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor, whole if it is distributed (a collective then)."""
    full_tensor = getattr(tensor, "full_tensor", None)  # of torch's DTensor, slow to import
    return tensor if full_tensor is None else full_tensor()


class WholeModel:
    """The whole weights of a run's model, from wherever they are.

    Create it before Accelerate prepares the model, of which it keeps a copy without weights if they
    will be distributed.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module):
        self._accelerator = accelerator
        self._empty = None if sharding_of(accelerator) is None else without_weights(model)

    def expected(self, used: nn.Module) -> dict[str, Tensor]:
        """Return tensors with the names and shapes of those of the model `used`."""
        return (used if self._empty is None else self._empty).state_dict()

    def state(self, prepared: nn.Module, used: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of the model `used`, by name (a collective).

        Of distributed weights, those of the prepared model, on the CPU of the main process; other
        processes get none.
        """
        if self._empty is None:
            return used.state_dict()
        found: Any = self._accelerator.get_state_dict(prepared)
        return found if self._accelerator.is_main_process else {}

    def to_export(self, prepared: nn.Module, used: nn.Module) -> nn.Module:
        """Return a model with these tensors, `used` itself if it has them whole (a collective)."""
        if self._empty is None:
            return used
        tensors = self.state(prepared, used)
        if tensors:
            self._empty.load_state_dict(tensors, strict=True, assign=True)
        return self._empty


def without_weights(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose parameters have shapes but no memory."""
    known: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, known)
