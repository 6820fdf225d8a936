"""The networks of VQ-VAE, SQ-VAE and Kaokore: sizes of the papers, shapes, ranges, refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from imagetok import seeding
from imagetok.config import Section, validate
from imagetok.errors import ConfigError
from imagetok.networks import (
    ConvConfig,
    FlatNetworkConfig,
    KaokoreNetConfig,
    SonnetConfig,
    SQVAENetConfig,
    VQGANConfig,
    build_network,
)
from imagetok.networks.pixels import CENTRED, SYMMETRIC, UNIT, PixelRange
from imagetok.networks.residual import SkipBlock

SMALL: list[FlatNetworkConfig] = [
    ConvConfig(width=8, groups=3, blocks=1),
    SonnetConfig(width=8, residual_width=4),
    SonnetConfig(width=8, residual_width=4, residual_layers=0, halvings=1),
    SonnetConfig(width=8, residual_width=4, halvings=3),
    SQVAENetConfig(form="net_28", width=8, residual_layers=1),
    SQVAENetConfig(form="net_32", width=8),
    SQVAENetConfig(form="net_64", width=8, residual_layers=3),
    SQVAENetConfig(form="net_64_label", width=9),
    KaokoreNetConfig(width=8),
    KaokoreNetConfig(width=8, init="released"),
    VQGANConfig(width=8, multipliers=(1, 2), blocks=1, latent_channels=4, norm_groups=4),
    VQGANConfig(width=4, multipliers=(1,), norm_groups=2, attention=(), middle_attention=False),
]


def sizes(config: FlatNetworkConfig, channels: int, reads: int, gives: int) -> tuple[int, int]:
    """Parameters of encoder and decoder; nothing is allocated."""
    with torch.device("meta"):
        encoder, decoder = build_network(config, channels, reads, gives, num_heads=reads // gives)
    first, second = (sum(p.numel() for p in n.parameters()) for n in (encoder, decoder))
    return first, second


@pytest.mark.parametrize(
    ("config", "channels", "expected"),
    [
        (SonnetConfig(), (3, 64, 64), (364_160 + 8_256, 290_307)),
        (SonnetConfig(), (3, 16, 16), (364_160 + 2_064, 235_011)),
        (SQVAENetConfig(form="net_28"), (1, 64, 64), (116_128, 116_065)),
        (SQVAENetConfig(form="net_32"), (3, 64, 64), (154_336, 154_147)),
        (SQVAENetConfig(form="net_64", residual_layers=6), (3, 64, 64), (319_584, 278_179)),
        (SQVAENetConfig(form="net_64", residual_layers=6), (3, 128, 64), (360_928, 278_179)),
        (SQVAENetConfig(form="net_64_label", width=65), (20, 65, 65), (196_756, 154_071)),
    ],
)
def test_parameters_of_the_papers(
    config: FlatNetworkConfig, channels: tuple[int, int, int], expected: tuple[int, int]
) -> None:
    assert sizes(config, *channels) == expected


def restated_label_network(width: int, classes: int) -> tuple[nn.Module, nn.Module]:
    """The network of SQ-VAE's label maps, with two residual blocks, layer by layer."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(width, width, 3, 1, 1)
            self.first_norm = nn.BatchNorm2d(width)
            self.second = nn.Conv2d(width, width, 1)
            self.second_norm = nn.BatchNorm2d(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = self.first_norm(self.first(x.relu())).relu()
            return x + self.second_norm(self.second(inner))

    half = width // 2
    encoder = nn.Sequential(
        *(nn.Conv2d(classes, half, 4, 2, 1), nn.BatchNorm2d(half), nn.ReLU()),
        *(nn.Conv2d(half, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU()),
        nn.Conv2d(width, width, 4, 2, 1),
        *(Residual(), Residual()),
    )
    decoder = nn.Sequential(
        Residual(),
        *(nn.ConvTranspose2d(width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.ConvTranspose2d(width, half, 4, 2, 1), nn.BatchNorm2d(half), nn.ReLU()),
        nn.ConvTranspose2d(half, classes, 4, 2, 1),
    )
    return encoder, decoder


@pytest.mark.parametrize("is_training", [True, False])
def test_the_network_of_label_maps_is_the_released_one(is_training: bool) -> None:
    seeding.reseed_global(0)
    config = SQVAENetConfig(form="net_64_label", width=65)
    pair = build_network(config, 20, 65, 65, is_bounded=False)
    maps = nn.functional.one_hot(torch.randint(0, 19, (2, 64, 64)), 20).movedim(-1, 1).float()
    codes = torch.randn(2, 65, 8, 8)
    restated = restated_label_network(65, 20)
    for network, other, x in zip(pair, restated, (maps, codes), strict=True):
        values = list(network.state_dict().values())
        other.load_state_dict(dict(zip(other.state_dict(), values, strict=True)))
        network.train(is_training)
        other.train(is_training)
        assert_close(network(x), other(x))


def test_parameters_of_the_kaokore_network() -> None:
    assert sum(sizes(KaokoreNetConfig(), 3, 128, 128)) + 512 * 128 == 1_260_931


@pytest.mark.parametrize("config", SMALL, ids=repr)
@pytest.mark.parametrize("reads", [5, 8, 12])
def test_shapes(config: FlatNetworkConfig, reads: int) -> None:
    encoder, decoder = build_network(config, 3, reads, 6)
    h, w = 16 // config.downsampling, 24 // config.downsampling
    assert encoder(torch.rand(2, 3, 16, 24)).shape == (2, reads, h, w)
    assert decoder(torch.rand(2, 6, h, w)).shape == (2, 3, 16, 24)


@pytest.mark.parametrize("config", SMALL, ids=repr)
def test_an_image_does_not_depend_on_its_batch_in_evaluation(config: FlatNetworkConfig) -> None:
    seeding.reseed_global(0)
    encoder, decoder = build_network(config, 3, 6, 6)
    images = torch.rand(3, 3, 8, 16)
    for network in (encoder, decoder):
        network(images if network is encoder else encoder(images))  # moves running statistics
        network.eval()
    together = decoder(encoder(images))
    alone = torch.cat([decoder(encoder(image[None])) for image in images])
    assert_close(together, alone)


@pytest.mark.parametrize("config", SMALL, ids=repr)
def test_decoders_end_in_their_range(config: FlatNetworkConfig) -> None:
    seeding.reseed_global(0)
    _, decoder = build_network(config, 1, 6, 6)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(30)
    out = decoder.eval()(torch.randn(2, 6, 4, 4))
    inside = config.pixels.low <= out.min() and out.max() <= config.pixels.high
    assert inside == (config.kind in ("sqvae", "kaokore"))
    if inside:  # and it reaches both ends
        assert_close(out.aminmax()[0].item(), config.pixels.low, atol=1e-3, rtol=0)
        assert_close(out.aminmax()[1].item(), config.pixels.high, atol=1e-3, rtol=0)


@pytest.mark.parametrize("config", [SQVAENetConfig(width=8), KaokoreNetConfig(width=8)], ids=repr)
def test_a_decoder_may_end_unbounded(config: FlatNetworkConfig) -> None:
    kinds = [
        type(list(build_network(config, 1, 6, 6, is_bounded=is_bounded)[1].modules())[-1])
        for is_bounded in (True, False)
    ]
    assert kinds[0] in (torch.nn.Sigmoid, torch.nn.Tanh)
    assert kinds[1] is torch.nn.ConvTranspose2d


def test_two_heads_share_a_trunk_and_nothing_else() -> None:
    seeding.reseed_global(0)
    encoder, _ = build_network(SQVAENetConfig(width=8), 3, 8, 4, num_heads=2)
    means, variances = encoder(torch.rand(2, 3, 8, 8)).chunk(2, dim=1)
    gradients = torch.autograd.grad((means**3).sum(), list(encoder.parameters()))
    reached = {
        name
        for (name, _), gradient in zip(encoder.named_parameters(), gradients, strict=True)
        if gradient.any()
    }
    assert variances.shape == means.shape and any(n.startswith("heads.0") for n in reached)
    assert not any(n.startswith("heads.1") for n in reached)
    assert all(n in reached for n, _ in encoder.named_parameters() if n.startswith("trunk"))


def test_a_skip_carries_what_came() -> None:
    seeding.reseed_global(0)
    block = SkipBlock(4, 2)
    nn.init.zeros_(block.branch[-1].weight)
    nn.init.zeros_(block.branch[-1].bias)
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(block(x), x)


def test_features_of_the_kaokore_network_start_small() -> None:
    seeding.reseed_global(0)
    encoder, _ = build_network(KaokoreNetConfig(width=16), 3, 16, 16)
    features = encoder(torch.randn(8, 3, 32, 32))
    assert_close(features.std(dim=(0, 2, 3)), torch.full((16,), 1 / 40), rtol=0.01, atol=0)


def test_the_kaokore_network_starts_as_the_public_code() -> None:
    """Its transposed convolutions keep the start that PyTorch gives them, which is uniform."""
    seeding.reseed_global(0)
    pair = build_network(KaokoreNetConfig(width=32, init="released"), 3, 32, 32)
    modules = [module for network in pair for module in network.modules()]
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    transposed = [module for module in modules if isinstance(module, nn.ConvTranspose2d)]
    assert len(convolutions) == 10 and len(transposed) == 2
    for module in convolutions:
        assert_close(module.weight.std().item(), 0.02, rtol=0.1, atol=0)
        assert module.weight.abs().max() > 0.04  # the public code's truncation has no effect
        assert not module.bias.any()
    for module in transposed:
        bound = (module.out_channels * 4 * 4) ** -0.5
        assert 0.9 * bound < module.weight.abs().max() <= bound
        assert 0 < module.bias.abs().max() <= bound


def test_the_kaokore_network_starts_as_it_did() -> None:
    """Where nothing is said; so that stored configs start equal runs."""
    config = KaokoreNetConfig(width=32)
    assert config.model_dump() == {"kind": "kaokore", "width": 32}
    seeding.reseed_global(0)
    pair = build_network(config, 3, 32, 32)
    for module in (module for network in pair for module in network.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert_close(module.weight.std().item(), 0.02, rtol=0.1, atol=0)
            assert module.bias.all()


@given(image=st.floats(0, 1, width=32))
def test_pixel_ranges_go_there_and_back(image: float) -> None:
    pixel = torch.full((1, 1, 1, 1), image)
    for pixels in (CENTRED, UNIT, SYMMETRIC, PixelRange(-2.0, 3.0)):
        inside = pixels.to_network(pixel)
        assert pixels.low <= inside.item() <= pixels.high
        assert_close(pixels.to_unit(inside), pixel, atol=1e-6, rtol=0)
    assert torch.equal(CENTRED.to_network(pixel), pixel - 0.5)
    assert torch.equal(CENTRED.to_unit(pixel), pixel + 0.5)


@pytest.mark.parametrize(
    ("cls", "tree", "says"),
    [
        (SonnetConfig, {"width": 9}, "width: Input should be a multiple of 2"),
        (SonnetConfig, {"halvings": 0}, "halvings: Input should be greater than or equal to 1"),
        (SQVAENetConfig, {"form": "net_16"}, "form: Input should be 'net_28', 'net_32',"),
        (SQVAENetConfig, {"residual_layers": 0}, "residual_layers: Input should be greater"),
        (KaokoreNetConfig, {"widht": 64}, "widht: unknown key; did you mean 'width'"),
    ],
)
def test_networks_that_cannot_be_are_refused(
    cls: type[Section], tree: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        validate(tree, cls, "here")
