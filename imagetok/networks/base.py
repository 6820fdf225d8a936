"""What a network of your own is described by, and what it is built for.

One of your own is registered (`imagetok.register`) by a file or package of yours:
docs/how-to/own-parts.md. A kind of imagetok's is a file beside this one and a case of
`build.build_network`.
"""

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from imagetok.networks.pixels import CENTRED, PixelRange
from imagetok.plugins.registry import OwnPart, OwnSection, names_in


class NetworkSpec(NamedTuple):
    """What an encoder and a decoder have to connect.

    With the f of the section's `downsampling`, the encoder maps (B, image_channels, H, W) to
    (B, encoder_channels, H / f, W / f), and the decoder (B, decoder_channels, H / f, W / f) to
    (B, image_channels, H, W).
    """

    image_channels: int
    """Of the images: 1 or 3; of label maps the number of classes."""
    encoder_channels: int
    """What the quantizer reads."""
    decoder_channels: int
    """What the quantizer gives."""
    num_heads: int = 1
    """How many equal parts, one after the other, the encoder's channels are (mean, variance)."""
    is_bounded: bool = True
    """Whether the decoder's output are pixels, which it may squash into its range; else they are
    values of any size (logits of classes)."""


class NetworkSection(OwnSection):
    """Base of the config section of a network of your own.

    Give it `kind: Literal["my-name"] = "my-name"`, its keys, and `downsampling`: a property or a
    key, pixels per code along each side.
    """

    pixels: ClassVar[PixelRange] = CENTRED
    """What black and white are to the network: -0.5 and 0.5."""
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
