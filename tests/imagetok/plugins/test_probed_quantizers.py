"""A registered quantizer is run once when it is built, which names what is broken."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import imagetok
from cli.main import _run
from imagetok.errors import ConfigError
from imagetok.plugins.probing import untouched_randomness
from imagetok.quantizers import (
    Quantized,
    Quantizer,
    QuantizerSection,
    VQConfig,
    build_quantizer,
    probe,
)

DIGITS = Path(__file__).parents[3] / "configs" / "digits"
WHAT = "quantizer 'nearest' (test_probed_quantizers:Nearest): "


class Nearest(QuantizerSection):
    kind: Literal["nearest"] = "nearest"
    losses: ClassVar[tuple[str, ...]] = ("pull",)


class NearestQuantizer(Quantizer):
    """Nearest code of eight, in three dimensions; draws from every source of random numbers."""

    def __init__(self, config: Nearest):
        super().__init__()
        self.num_codes, self.code_dim, self.in_channels = (8,), 3, 3
        self.codebook = nn.Parameter(torch.randn(8, 3))
        self.register_buffer("calls", torch.zeros(()))
        self.runs = 0

    def forward(
        self, h: Tensor, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Quantized:
        self.runs += 1
        self.get_buffer("calls").add_(1)
        noise = torch.rand(()) * 0 + random.random() * 0 + np.random.rand() * 0  # noqa: NPY002
        indices = self.encode(h)
        z_q = self.decode(indices)
        pull = (h - z_q).square().mean() + noise
        return Quantized(h + (z_q - h).detach(), indices, {"pull": pull}, {})

    def encode(self, h: Tensor, *, generator: torch.Generator | None = None) -> Any:
        flat = h.movedim(1, -1)
        return (torch.cdist(flat.flatten(0, 2), self.codebook).argmin(1).view(flat.shape[:3]),)

    def decode(self, indices: Any) -> Tensor:
        return self.codebook[indices[0]].movedim(-1, 1)


def after(method: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    """What a class overrides so that `method` returns something else."""
    before = getattr(NearestQuantizer, method)

    def other(self: Any, *arguments: Any, **named: Any) -> Any:
        return change(before(self, *arguments, **named))

    return {method: other}


def built(**attributes: Any) -> Quantizer:
    imagetok.register(Nearest, type("Broken", (NearestQuantizer,), attributes))
    return build_quantizer(Nearest())


def refused(**attributes: Any) -> str:
    with pytest.raises(ConfigError) as refusal:
        built(**attributes)
    assert str(refusal.value).startswith(WHAT)
    return str(refusal.value).removeprefix(WHAT)


def initialised(**values: Any) -> dict[str, Any]:
    def init(self: Any, config: Nearest) -> None:
        NearestQuantizer.__init__(self, config)
        for name, value in values.items():
            setattr(self, name, value)

    return {"__init__": init}


def test_the_run_changes_neither_weights_nor_global_random_state(monkeypatch):
    def state() -> tuple[Any, ...]:
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        quantizer = built()
        assert vars(quantizer)["runs"] == 0
        drawn = torch.rand(()).item(), np.random.rand()  # noqa: NPY002
        return *drawn, *(value.tolist() for value in quantizer.state_dict().values())

    seen: list[str] = []
    check = probe.check_built
    monkeypatch.setattr(
        "imagetok.quantizers.build.check_built", lambda *given: (seen.append("run"), check(*given))
    )
    probed = state()
    monkeypatch.setattr("imagetok.quantizers.build.check_built", lambda *given: None)
    assert probed == state() and seen == ["run"]


def test_python_s_random_state_is_restored_too():
    # Apart, because the type checks of the test run draw from it themselves.
    before = random.getstate()
    with untouched_randomness():
        random.random()
        assert random.getstate() != before
    assert random.getstate() == before


def test_it_is_not_run_on_the_meta_device_and_built_in_ones_never(monkeypatch):
    with torch.device("meta"):
        assert built(**after("forward", tuple)).num_codes == (8,)
    monkeypatch.setattr("imagetok.quantizers.build.check_built", lambda *given: 1 / 0)
    build_quantizer(VQConfig())


def replaced(**fields: Any) -> dict[str, Any]:
    return after("forward", lambda out: out._replace(**fields))


FLAT = torch.zeros(2, 2, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        (
            initialised(num_codes=8),
            "num_codes: expected a tuple of ints >= 2, one a level, found 8",
        ),
        (initialised(num_codes=()), "num_codes: expected a tuple of ints >= 2, one a level, found"),
        (initialised(num_codes=(8.0,)), "num_codes: expected a tuple of ints >= 2, one a level, "),
        (initialised(num_codes=(1,)), "num_codes: expected a tuple of ints >= 2, one a level, fou"),
        (initialised(code_dim=3.0), "code_dim: expected an int >= 1, found 3.0"),
        (initialised(in_channels=True), "in_channels: expected an int >= 1, found True"),
        (initialised(num_heads=0), "num_heads: expected an int >= 1, found 0"),
        (initialised(scale=FLAT), "scale: expected a parameter, buffer or submodule, found a pla"),
        (initialised(inner=[nn.Linear(1, 1)]), "inner: expected a parameter, buffer or submodule"),
        ({"__init__": lambda self, config: None}, "expected an __init__ that calls super().__in"),
        (after("forward", tuple), "forward: expected a Quantized, found tuple"),
        (after("forward", lambda out: 1 / 0), "forward on an encoder output of shape (2, 3, 2, 2)"),
        (
            after("forward", lambda out: 1 / 0),
            "forward on an encoder output of shape (2, 3, 2, 2) f",
        ),
        (
            replaced(z_q=torch.zeros(2, 3, 4)),
            "forward: z_q: expected a floating point tensor of shape (2, 3, 2, 2), found "
            "torch.float32 of shape (2, 3, 4)",
        ),
        (
            replaced(z_q=None),
            "forward: z_q: expected a floating point tensor of shape (2, 3, 2, 2)",
        ),
        (replaced(indices=FLAT), "forward: indices: expected a tuple of 1 code map, one a level "),
        (replaced(indices=(FLAT, FLAT)), "forward: indices: expected a tuple of 1 code map, one"),
        (replaced(indices=(FLAT.int(),)), "forward: indices, level 0: expected torch.int64 of sh"),
        (replaced(indices=(FLAT[0],)), "forward: indices, level 0: expected torch.int64 of shape"),
        (replaced(indices=(FLAT + 8,)), "forward: indices, level 0: expected codes in [0, 8), fou"),
        (replaced(indices=(FLAT - 1,)), "forward: indices, level 0: expected codes in [0, 8), fou"),
        (replaced(losses={}), "forward: losses: expected a dict of ['pull'], which the section "),
        (
            replaced(losses=[]),
            "forward: losses: expected a dict of ['pull'], which the section dec",
        ),
        (
            replaced(losses={"pull": torch.zeros(2)}),
            "forward: losses: pull: expected a floating point scalar tensor, found torch.float3",
        ),
        (replaced(losses={"pull": 0.5}), "forward: losses: pull: expected a floating point scala"),
        (replaced(stats=None), "forward: stats: expected a dict, found NoneType"),
        (
            {"forward": lambda self, h, **_: _right(h), "encode": lambda self, h, **_: FLAT},
            "encode: expected a tuple of 1 code map, one a level of num_codes, found Tensor",
        ),
        (
            {"forward": lambda self, h, **_: _right(h), "encode": lambda self, h: (FLAT,)},
            "encode on an encoder output of shape (2, 3, 2, 2) fails: TypeError: ",
        ),
        (
            {
                "forward": lambda self, h, **_: _right(h),
                "decode": lambda self, indices: self.codebook[indices[0]],
            },
            "decode: expected a floating point tensor of shape (2, 3, 2, 2), found torch.float32 o",
        ),
    ],
)
def test_a_quantizer_that_breaks_the_interface_is_refused(untyped, attributes, said):
    assert refused(**attributes).startswith(said)


def _right(h: Tensor) -> Quantized:
    return Quantized(h, (FLAT,), {"pull": h.mean()}, {})


def test_a_broken_quantizer_ends_a_command_with_one_message(plugin, tmp_path, capsys):
    text = plugin().read_text().replace("(indices,), losses", "(indices + 64,), losses")
    words = ["--plugin", str(plugin("mine.py", text)), "train", str(DIGITS / "vqvae.yaml")]
    words += ["--set", "tokenizer.quantizer={kind: soft-vq, num_codes: 64}"]
    words += ["--set", "objective.weights={commitment: {kind: constant, value: 0.25}}"]
    assert _run([*words, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "error: quantizer 'soft-vq' (imagetok_plugin_mine:SoftVQConfig): forward: i" in error
    assert "expected codes in [0, 64), found" in error and error.count("\n") <= 3
