"""The config section and the specification of a network of your own.

Such a network is registered (`imagetok.register`) by your own file or package; see
docs/how-to/own-parts.md. An included network is a module of this package and a case of
`build.build_network`.
"""

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from imagetok.networks.pixels import CENTRED, PixelRange
from imagetok.plugins.registry import OwnPart, OwnSection, names_in


class NetworkSpec(NamedTuple):
    """The channels that an encoder and a decoder have to connect.

    With the f of the section's `downsampling`, the encoder maps (B, image_channels, H, W) to
    (B, encoder_channels, H / f, W / f), and the decoder (B, decoder_channels, H / f, W / f) to
    (B, image_channels, H, W).
    """

    image_channels: int
    """Image channels: 1 or 3; for label maps the number of channels of their likelihood."""
    encoder_channels: int
    """Number of channels of the encoder's output, which the quantizer reads."""
    decoder_channels: int
    """Number of channels of the decoder's input, the quantizer's output."""
    num_heads: int = 1
    """Number of equal parts of the encoder's channels: 2 for means and variances."""
    is_bounded: bool = True
    """Whether decoder outputs are pixels, which it may bound to its range; otherwise they are
    unbounded (logits of classes)."""


class NetworkSection(OwnSection):
    """Base class of the config section of your own network.

    Define `kind: Literal["my-name"] = "my-name"`, its keys, and `downsampling`, a property or key:
    pixels per code along each side.
    """

    pixels: ClassVar[PixelRange] = CENTRED
    """The values of black and white inside the network; by default -0.5 and 0.5."""
    any_size: ClassVar[bool] = False
    """Whether the network takes images of any size that is a multiple of `downsampling`, as one of
    convolutions alone does; False, for one with position embeddings, refuses other sizes."""
    if TYPE_CHECKING:
        kind: Any  # a Literal of the section

        @property
        def downsampling(self) -> int:
            """Pixels per code along each side."""
            ...

    @classmethod
    def own_part(cls) -> OwnPart:
        from imagetok.networks.build import NetworkConfig

        return OwnPart("network", "kind", ("downsampling",), names_in(NetworkConfig, "kind"))
