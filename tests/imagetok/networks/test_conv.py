import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from imagetok import seeding
from imagetok.config import validate
from imagetok.errors import ConfigError
from imagetok.networks import ConvConfig, build_network
from imagetok.networks.conv import ResidualBlock


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def paper_counts(kernel_size: int = 3, num_codes: int = 512, code_dim: int = 16) -> list[int]:
    """Parameters of encoder, decoder and codebook at the paper's width; nothing is allocated."""
    with torch.device("meta"):
        encoder, decoder = build_network(
            ConvConfig(kernel_size=kernel_size), 3, num_codes, code_dim
        )
    return [count(encoder), count(decoder), num_codes * code_dim]


def test_parameters_of_the_paper() -> None:
    assert paper_counts() == [2_559_808, 2_627_907, 8_192]
    assert sum(paper_counts()) == 5_195_907
    assert paper_counts(kernel_size=7)[0] == 2_575_168
    assert sum(paper_counts(kernel_size=7)) == 5_211_267


@pytest.mark.parametrize(
    ("num_codes", "total"),
    [(128, 4_992_771), (256, 5_060_483), (1024, 5_466_755), (2048, 6_008_451)],
)
def test_parameters_of_the_sweep_over_codes(num_codes: int, total: int) -> None:
    assert sum(paper_counts(num_codes=num_codes)) == total


@pytest.mark.parametrize(
    ("code_dim", "total"),
    [(8, 5_186_691), (32, 5_214_339), (64, 5_251_203), (128, 5_324_931), (256, 5_472_387)],
)
def test_parameters_of_the_sweep_over_dimensions(code_dim: int, total: int) -> None:
    assert sum(paper_counts(code_dim=code_dim)) == total


def test_parameters_of_each_block_of_the_paper() -> None:
    def block(into: int, out: int, sizes: tuple[int, int, int, int]) -> int:
        with torch.device("meta"):
            return count(ResidualBlock(into, out, sizes, 1.0, 0.0))

    encoder, decoder = (3, 3, 3, 1), (1, 3, 3, 3)
    pairs = [(128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    assert [block(*pair, encoder) for pair in pairs] == [59_616, 197_312, 238_016, 787_840, 951_168]
    pairs = [(16, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128)]
    sizes = [896_384, 951_168, 385_728, 238_016, 96_608, 59_616]
    assert [block(*pair, decoder) for pair in pairs] == sizes


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize(("groups", "blocks"), [(1, 1), (2, 2), (3, 1), (4, 1)])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 24), (32, 16)])
def test_shapes(kernel_size: int, groups: int, blocks: int, height: int, width: int) -> None:
    config = ConvConfig(width=8, groups=groups, blocks=blocks, kernel_size=kernel_size)
    encoder, decoder = build_network(config, 1, 12, 5)
    factor = config.downsampling
    assert factor == 2 ** (groups - 1)
    h = encoder(torch.rand(2, 1, height, width))
    assert h.shape == (2, 12, height // factor, width // factor)
    x = decoder(torch.rand(2, 5, height // factor, width // factor))
    assert x.shape == (2, 1, height, width)


@given(seed=st.integers(0, 2**32 - 1))
def test_images_of_a_batch_do_not_mix(seed: int) -> None:
    seeding.reseed_global(seed)
    encoder, decoder = build_network(ConvConfig(width=8, init="torch"), 3, 6, 6)
    images = torch.rand(3, 3, 8, 12)
    together = decoder(encoder(images))
    alone = torch.cat([decoder(encoder(image[None])) for image in images])
    assert_close(together, alone)


def test_a_residual_branch_is_added_with_its_gain() -> None:
    seeding.reseed_global(0)
    x = torch.randn(2, 8, 4, 4)
    for into, out in [(8, 8), (8, 16)]:
        block = ResidualBlock(into, out, (3, 3, 3, 1), 0.25, 0.0)
        assert_close(block(x), block.identity(x) + 0.25 * block.branch(x))
        block.gain = 0.0
        assert torch.equal(block(x), block.identity(x))


def test_the_gain_is_that_of_the_paper_unless_given() -> None:
    assert ConvConfig().gain == 1 / 36
    assert ConvConfig(groups=2, blocks=1).gain == 1 / 4
    assert ConvConfig(residual_gain=0.5).gain == 0.5
    encoder, _ = build_network(ConvConfig(width=8), 3, 6, 6)
    blocks = [m for m in encoder.modules() if isinstance(m, ResidualBlock)]
    assert len(blocks) == 6 and all(block.gain == 1 / 36 for block in blocks)


def test_convolutions_start_normal_and_biases_as_torch_does() -> None:
    seeding.reseed_global(0)
    for network in build_network(ConvConfig(width=64), 3, 64, 16):
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        weights = torch.cat([m.weight.flatten() for m in convolutions])
        assert weights.std().item() == pytest.approx(0.02, rel=0.01)
        assert abs(weights.mean().item()) < 2e-4
        for m in convolutions:
            bound = (m.in_channels * m.kernel_size[0] ** 2) ** -0.5
            assert m.bias is not None and m.bias.any() and m.bias.abs().max() <= bound


def test_dropout_works_in_training_only() -> None:
    seeding.reseed_global(0)
    config = ConvConfig(width=16, dropout=0.5, residual_gain=1.0, init="torch")
    encoder, _ = build_network(config, 3, 6, 6)
    images = torch.rand(2, 3, 8, 8)
    assert not torch.equal(encoder(images), encoder(images))
    encoder.eval()
    assert torch.equal(encoder(images), encoder(images))


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"width": 6}, r"width must be a multiple of 4 \(found 6\)"),
        ({"kernel_size": 4}, r"kernel_size must be odd \(found 4\)"),
        ({"groups": 7}, "groups: Input should be less than or equal to 6"),
        ({"residual_gain": 0}, "residual_gain: Input should be greater than 0"),
        ({"dropout": 1}, "dropout: Input should be less than 1"),
    ],
)
def test_networks_that_cannot_be_are_refused(tree: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        validate(tree, ConvConfig, "here")
