"""No step of training waits for a GPU or varies on it, with any config: on fake tensors of one."""

import json
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from device_waits import DeviceWaits, WouldWait, device_generator, host_generator
from fake_steps import ALLOWED, CPU, Trained, of_config, run_of, take_backward, take_steps
from representative import slow_but
from torch import Tensor

from imagetok import configs
from imagetok.config import apply_overrides
from imagetok.processes import without_waiting
from imagetok.quantizers import Quantized, code_counts
from imagetok.quantizers.codebook_init_reset import CodebookInitReset
from imagetok.quantizers.vq import VQQuantizer

MECHANISMS = [
    *("digits/vqvae", "digits/vqvae-ema", "digits/vqste", "digits/edvae", "digits/dvae"),
    *("digits/ibq", "digits/gs-vqvae", "digits/sqvae", "shapes/vmf-sqvae", "digits/vae"),
    "shapes/vqvae2",
    *("digits/fsq", "digits/lfq", "digits/residual-vq", "digits/simvq", "digits/rotation-vq"),
    *("digits/gpt", "digits/pixelcnn", "digits/pixelsnail", "shapes/pixelsnail-vqvae2"),
]


def different_models() -> dict[str, dict[str, Any]]:
    """Of all configs those whose model and objective no earlier one has, apart from sizes."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for config in sorted(configs(), key=lambda config: config.name not in MECHANISMS):
        model = "tokenizer" if config.tree["kind"] == "tokenizer" else "model"
        parts = [config.tree.get(key) for key in (model, "objective", "conditional")]
        found.setdefault(json.dumps(_operations(parts), sort_keys=True), (config.name, config.tree))
    return dict(found.values())


def _operations(tree: Any) -> Any:
    """What a step computes: a positive number changes sizes and values, but no operation."""
    match tree:
        case dict():
            return {key: _operations(value) for key, value in tree.items()}
        case list():
            return [_operations(value) for value in tree]
        case bool() | str() | None:
            return tree
        case _:
            return tree > 0


MODELS = different_models()
each_model = pytest.mark.parametrize("name", slow_but(MECHANISMS, MODELS))


@each_model
def test_a_training_step_waits_for_nothing(name):
    take_steps(of_config(run_of(MODELS[name])))


@each_model
def test_backward_waits_for_nothing(name):
    take_backward(of_config(run_of(MODELS[name])))


ENTROPY = {
    "tokenizer.quantizer.entropy_temperature": 0.01,
    "objective.weights.sample_entropy": {"kind": "constant", "value": 0.05},
    "objective.weights.diversity": {"kind": "constant", "value": 0.05},
}
VARIANTS = [
    ("digits/vqvae", ENTROPY),
    ("digits/vqvae-ema", ENTROPY),
    ("digits/edvae", {"tokenizer.quantizer.kl": "torch"}),
    ("digits/edvae", {"tokenizer.quantizer.probabilities": "sample"}),
    ("digits/edvae", {"tokenizer.quantizer.evidence": "softplus"}),
    *(("digits/sqvae", {"tokenizer.quantizer.variance": v}) for v in ("fixed", "II", "III", "IV")),
    *(("digits/sqvae", {"tokenizer.likelihood": {"kind": v}}) for v in ("arelbo", "gaussian")),
    ("digits/vae", {"tokenizer.latent.per": "position"}),
    ("shapes/vmf-sqvae", {"tokenizer.image.ignore": 255}),
    ("digits/gpt", {"model.positions": "rotary"}),
    ("digits/pixelsnail", {"model.attention": False}),
    (
        "digits/vqvae-ema",
        {
            "objective.adversarial": {
                "weight": {"kind": "constant", "value": 0.1},
                "learning_rate": {"kind": "constant", "value": 1e-4},
                "layers": 1,
            },
        },
    ),
]


@pytest.mark.parametrize(("name", "changes"), slow_but([], VARIANTS))
def test_what_no_config_asks_for_waits_for_nothing_either(name, changes):
    tree = apply_overrides(MODELS[name], changes)
    take_steps(of_config(run_of(tree)))
    take_backward(of_config(run_of(tree)))


TOKENIZERS = [
    name
    for name in MECHANISMS
    if MODELS[name]["kind"] == "tokenizer" and "latent" not in MODELS[name]["tokenizer"]
]
FEW_TOKENIZERS = ["digits/vqvae-ema", "digits/edvae", "digits/residual-vq", "shapes/vqvae2"]
ONLY_DECODER = {"trained": "decoder"}


@pytest.mark.parametrize("name", slow_but(FEW_TOKENIZERS, TOKENIZERS))
def test_a_step_of_the_decoder_alone_waits_for_nothing(name):
    take_steps(of_config(run_of(MODELS[name] | ONLY_DECODER)))
    take_backward(of_config(run_of(MODELS[name] | ONLY_DECODER)))


RESETS = "none", "random", "least-recently-used", "split"
QUANTIZERS = {
    "vqvae": ("digits/vqvae", {}),
    "vqvae-ema": ("digits/vqvae-ema", {"averages": "zeros"}),
    "vqvae-ema debiased": ("digits/vqvae-ema", {"averages": "debiased"}),
    "vq-ste++": ("digits/vqste", {"alternation": None}),
    "vq-ste++ alternating": ("digits/vqste", {"alternation": {"steps": 2}}),
}
CASES = [(q, init, reset) for q in QUANTIZERS for init in ("data", "kmeans") for reset in RESETS]
SOME = [
    ("vqvae", "data", "split"),
    ("vqvae-ema", "kmeans", "least-recently-used"),
    ("vq-ste++ alternating", "data", "random"),
]


@pytest.mark.parametrize(("quantizer", "init", "reset"), slow_but(SOME, CASES))
def test_codes_start_and_are_replaced_without_waiting_but_for_k_means(quantizer, init, reset):
    name, changes = QUANTIZERS[quantizer]
    changes = {**changes, "init": init, "reset": {"kind": reset}}
    keys = {f"tokenizer.quantizer.{key}": value for key, value in changes.items()}
    run = run_of(apply_overrides(MODELS[name], keys))
    assert take_steps(of_config(run), steps=3) == set(ALLOWED if init == "kmeans" else [])


class Planted(VQQuantizer):
    """A quantizer with a fault in `forward`, `update` or backward."""

    def __init__(self, where: str, fault: Callable[[Tensor, Tensor], object]):
        super().__init__(64, 16, CodebookInitReset(64, "normal", None))
        self.where = where
        self.fault = fault

    def quantized(self, z_e: Tensor, z_q: Tensor, indices: Tensor, generator: Any) -> Quantized:
        if self.where == "forward":
            self.fault(z_e, indices)
        if self.where == "backward":
            z_e = cast(Tensor, PlantedBackward.apply(z_e, indices, self.fault))
        found = super().quantized(z_e, z_q, indices, generator)
        return found._replace(stats={"vectors": z_e.detach(), "counts": indices})

    def update(self, stats: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        if self.where == "update":
            self.fault(stats["vectors"], stats["counts"])
        return {}


class PlantedBackward(torch.autograd.Function):
    """The identity."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, indices: Tensor, fault: Any) -> Tensor:
        ctx.indices, ctx.fault = indices, fault
        return h.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.fault(grad, ctx.indices)
        return grad, None, None


def planted(where: str, fault: Callable[[Tensor, Tensor], object]) -> Trained:
    trained = of_config(run_of(MODELS["digits/vqvae"]))
    with torch.device("meta"):
        cast(Any, trained.job.model).quantizer = Planted(where, fault)
    return trained


FAULTS: dict[str, tuple[str, Callable[[Tensor, Tensor], object]]] = {
    "item": ("aten._local_scalar_dense", lambda h, i: h.mean().item()),
    "condition": ("aten._local_scalar_dense", lambda h, i: 1 if h.mean() > 0 else 0),
    "tolist": ("aten._local_scalar_dense", lambda h, i: i.tolist()),
    "position": ("aten._local_scalar_dense", lambda h, i: h[i.amax()]),
    "equal": ("aten.equal", lambda h, i: torch.equal(i, i)),
    "bincount": ("aten.bincount", lambda h, i: torch.bincount(i.flatten(), minlength=64)),
    "nonzero": ("aten.nonzero", lambda h, i: h.nonzero()),
    "unique": ("aten._unique2", lambda h, i: i.unique()),
    "mask": ("aten.index.Tensor", lambda h, i: h[h > 0]),
    "masked_select": ("aten.masked_select", lambda h, i: h.masked_select(h > 0)),
    "repeats": ("aten.repeat_interleave", lambda h, i: h.repeat_interleave(i[0, 0], dim=-1)),
    "multinomial": ("aten.multinomial", lambda h, i: torch.multinomial(h[0, 0].exp(), 1)),
    "median": ("aten.median.dim", lambda h, i: h.median(dim=1)),
    "devices": ("aten.add.Tensor", lambda h, i: h + torch.ones(h.shape)),
    "read": ("aten._to_copy", lambda h, i: h.detach().cpu()),
    "constant": ("aten._to_copy", lambda h, i: h * torch.tensor(2.0, device=h.device)),
    "blocking": ("aten._to_copy", lambda h, i: torch.ones(3).to(h.device)),
    "pageable": ("aten._to_copy", lambda h, i: torch.ones(3).to(h.device, non_blocking=True)),
    "pinned": ("aten._to_copy", lambda h, i: torch.ones(3).pin_memory().to(h.device)),
    "into": ("aten.copy_", lambda h, i: torch.empty_like(h).copy_(torch.ones(h.shape))),
    "index": ("aten.index.Tensor", lambda h, i: h[torch.tensor([0])]),
    "host noise": (
        "aten.uniform_",
        lambda h, i: torch.empty_like(h).uniform_(generator=host_generator()),
    ),
    "device noise": ("aten.randperm", lambda h, i: torch.randperm(3, generator=device_generator())),
}


PLACES = [
    *(("forward", name) for name in FAULTS),
    *(("update", name) for name in ("item", "bincount", "devices", "blocking")),
]


@pytest.mark.parametrize(("where", "name"), PLACES)
def test_what_would_wait_is_found_and_named(where, name):
    operation, fault = FAULTS[name]
    with pytest.raises(WouldWait) as found:
        take_steps(planted(where, fault))
    place, reason = str(found.value).split("\n")
    line = fault.__code__.co_firstlineno
    assert place.startswith(f"tests/test_device_waits.py:{line} in <lambda>: ")
    assert reason.startswith(f"  {operation}")


@pytest.mark.parametrize("name", ["item", "bincount", "mask"])
def test_what_would_wait_in_backward_is_found_and_named(name):
    operation, fault = FAULTS[name]
    with pytest.raises(WouldWait, match=rf"in <lambda>: .*\n  {operation}"):
        take_backward(planted("backward", fault))


VARYING: dict[str, Callable[[Tensor], Tensor]] = {
    "nll_loss2d": lambda h: F.cross_entropy(h, h[:, 0].long()),
    "upsample_bilinear2d": lambda h: F.interpolate(h, scale_factor=2, mode="bilinear"),
    "_upsample_bicubic2d_aa": lambda h: F.interpolate(h, (3, 3), mode="bicubic", antialias=True),
    "reflection_pad2d": lambda h: F.pad(h, (1, 1, 1, 1), mode="reflect"),
    "_adaptive_avg_pool2d": lambda h: F.adaptive_avg_pool2d(h, 3),
    "adaptive_max_pool2d": lambda h: F.adaptive_max_pool2d(h, 3),
    "grid_sampler_2d": lambda h: F.grid_sample(
        h, h.permute(0, 2, 3, 1)[..., :2], align_corners=False
    ),
}


@pytest.mark.parametrize("name", VARYING)
def test_what_has_no_deterministic_form_is_found_and_named(name):
    h = torch.zeros(2, 8, 8, 8, requires_grad=True)
    reason = rf"aten\.{name}_(forward|backward).*: train.deterministic refuses it"
    with pytest.raises(WouldWait, match=reason), DeviceWaits(CPU):
        VARYING[name](h).sum().backward()


RIGHT: dict[str, Callable[[Tensor, Tensor], object]] = {
    "counts": lambda h, i: code_counts(i, 64),
    "mask": lambda h, i: torch.where(h > 0, h, 0.0),
    "fill": lambda h, i: h.clone().__setitem__(h > 0, 0.0),
    "constant": lambda h, i: h * torch.full((), 2.0, device=h.device),
    "number of the host": lambda h, i: h * torch.tensor(2.0),
    "copy": lambda h, i: h + without_waiting(torch.ones(h.shape), h.device),
    "repeats": lambda h, i: h.repeat_interleave(2, dim=0),
    "on the host": lambda h, i: torch.ones(3).nonzero().tolist(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_waits_for_nothing_is_accepted(name):
    for where in ("forward", "update"):
        take_steps(planted(where, RIGHT[name]))
