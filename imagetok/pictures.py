"""Pictures of image batches: grids, heat maps, and originals above their reconstructions."""

import colorsys
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from imagetok.durable import write_bytes
from imagetok.errors import ConfigError, InputError, NotFiniteError
from imagetok.fonts import font as font_of
from imagetok.fonts import has_letters
from imagetok.images import Images, to_uint8

# Half precision and resampling leave [0, 1] by less than this; a wrong range by far more.
_OVERSHOOT = 1e-2
_WHITE = 255
_PICTURE_SHARE = 0.4  # weight of the image under an overlaid map
_INK = "#2b3038"
_TEXT = 16  # pixels, of names in a grid
_SMALLEST_TEXT = 10
_GAP = 8  # pixels between groups of columns
_HEAT = ((0, 0, 0), (80, 18, 123), (182, 54, 121), (251, 136, 97), (252, 253, 191))


def as_pixels(images: Tensor | np.ndarray) -> np.ndarray:
    """Convert a batch of images to a uint8 array (N, C, H, W) in host memory.

    images: (N, C, H, W) with C = 1 or 3, uint8 or floating point in [0, 1].
    Raises InputError for another shape, type or range, NotFiniteError for NaN.
    """
    wanted = "expected images of shape (N, C, H, W) with C = 1 (grey) or 3 (RGB)"
    if images.ndim != 4:
        raise InputError(
            f"{wanted}, found shape {tuple(images.shape)}; pass one image as image[None]"
        )
    if images.shape[1] not in (1, 3):
        raise InputError(
            f"{wanted}, found shape {tuple(images.shape)}; channels belong on dim 1, not on the "
            "last one"
        )
    if 0 in images.shape:
        raise InputError(f"{wanted} and at least one pixel, found shape {tuple(images.shape)}")
    if isinstance(images, Tensor):
        pixels = images.detach().cpu()
    else:
        pixels = torch.from_numpy(np.array(images, order="C"))
    if pixels.dtype == torch.uint8:
        return pixels.numpy()
    if not pixels.dtype.is_floating_point:
        raise InputError(
            f"expected uint8 pixels, or floating point in [0, 1], found {pixels.dtype}; "
            "convert integers in 0..255 to uint8"
        )
    low, high = (float(v) for v in pixels.aminmax())
    if low != low:
        raise NotFiniteError(
            "expected pixels in [0, 1], found NaN; if a model computed these images, its training "
            "has diverged"
        )
    if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):  # also refuses NaN
        raise InputError(
            f"expected pixels in [0, 1], found [{low:g}, {high:g}]; "
            "divide pixels in 0..255 by 255, and undo any other normalisation"
        )
    return to_uint8(pixels.float()).numpy()


def as_rgb(images: Images) -> Tensor:
    """Return images for display: pixels unchanged, label maps in the RGB colours of `palette`."""
    if images.is_floating_point():
        return images
    return torch.from_numpy(palette())[images.cpu()].movedim(-1, 1)


def palette() -> np.ndarray:
    """Return a colour per class, (256, 3) uint8, the same in every picture; class 0 is black.

    Hues follow the golden angle, so that the first classes have clearly different colours.
    """
    colours = np.zeros((256, 3), dtype=np.uint8)
    for label in range(1, 256):
        hue = label * 0.6180339887 % 1
        value = (1.0, 0.75, 0.5)[label // 12 % 3]
        colours[label] = [round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.75, value)]
    return colours


def class_labels(labels: Iterable[int], class_names: Sequence[str]) -> list[str]:
    """Return the class name of each label, or its number without names; "" for no label."""
    named = dict(enumerate(class_names))
    return [named.get(int(label), str(int(label))) if label >= 0 else "" for label in labels]


def drawn_labels(labels: Iterable[int], class_names: Sequence[str]) -> list[str]:
    """Return `class_labels` for a picture: `class 3` for a name that its font lacks a letter of."""
    labels = [int(label) for label in labels]
    names = class_labels(labels, class_names)
    pairs = zip(labels, names, strict=True)
    return [name if has_letters(name) else f"class {label}" for label, name in pairs]


def heat_map(values: Tensor | np.ndarray) -> np.ndarray:
    """Colour maps of values from black over purple and orange to pale yellow.

    values: (N, H, W) in [0, 1]. Returns uint8 images (N, 3, H, W) for a grid. Lightness grows with
    the value, so that a print in grey remains readable. Raises InputError for another shape.
    """
    if values.ndim != 3:
        raise InputError(f"expected maps of shape (N, H, W), found {tuple(values.shape)}")
    levels = as_pixels(values[:, None])[:, 0]
    places = np.linspace(0, 255, len(_HEAT))
    table = np.stack([np.interp(np.arange(256), places, c) for c in zip(*_HEAT, strict=True)])
    return table.round().astype(np.uint8)[:, levels].swapaxes(0, 1)


def overlay(images: Tensor | np.ndarray, maps: Tensor | np.ndarray) -> np.ndarray:
    """Overlay maps in the colours of `heat_map` on grey versions of images.

    images: (N, C, H, W) as for a grid. maps: (N, h, w) in [0, 1]; each value covers an equal part
    of the image. Returns uint8 images (N, 3, H, W). Raises InputError for other shapes.
    """
    pixels = as_pixels(images)
    count, _, height, width = pixels.shape
    if maps.ndim != 3 or len(maps) != count:
        raise InputError(
            f"expected maps of shape ({count}, h, w), one per image, found {tuple(maps.shape)}"
        )
    h, w = maps.shape[1:]
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    colours = heat_map(maps)[:, :, rows][..., columns]
    grey = pixels.mean(axis=1, keepdims=True)
    return (_PICTURE_SHARE * grey + (1 - _PICTURE_SHARE) * colours).round().astype(np.uint8)


def grid(
    images: Tensor | np.ndarray, columns: int, padding: int = 2, background: int = _WHITE
) -> Image.Image:
    """Arrange images row by row, with `padding` pixels between and around them.

    images: (N, C, H, W) with C = 1 or 3, uint8 or floating point in [0, 1]; grey images give a grey
    picture. background: grey level 0..255 of the padding and of empty positions after the last
    image. Raises ConfigError or InputError for values out of range.
    """
    if columns < 1 or padding < 0 or not 0 <= background <= 255:
        raise ConfigError(
            "grid: expected columns >= 1, padding >= 0 and background in 0..255, "
            f"found columns={columns}, padding={padding}, background={background}"
        )
    pixels = as_pixels(images)
    count, channels, height, width = pixels.shape
    rows = -(-count // columns)
    shape = (rows * (height + padding) + padding, columns * (width + padding) + padding, channels)
    canvas = np.full(shape, background, dtype=np.uint8)
    for i, image in enumerate(pixels):
        top = padding + i // columns * (height + padding)
        left = padding + i % columns * (width + padding)
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def named_grid(
    images: Tensor | np.ndarray,
    columns: int,
    row_names: Sequence[str] = (),
    titles: Sequence[str] = (),
    names: Sequence[str] = (),
    padding: int = 2,
) -> Image.Image:
    """Arrange images as `grid` does, with names in black on white; small images are enlarged.

    row_names: one per row, on its left. titles: one per column, or one per group of equally many
    columns, above it; a wider gap separates groups. names: one per image, above it. Each may be
    empty. Names that are too long are set smaller, and then cut off. Raises ConfigError for a
    number of titles that does not divide the columns.
    """
    if titles and columns % len(titles):
        raise ConfigError(f"titles: expected a divisor of {columns} columns, found {len(titles)}")
    pixels = as_pixels(images)
    height, width = pixels.shape[2:]
    scale = max(1, 64 // max(height, width))
    font = font_of(_TEXT)
    margin = 16 + max(round(font.getlength(name)) for name in row_names) if row_names else 0
    top = 28 if titles else 0
    strip = 18 if names else 0
    group = columns // max(1, len(titles))
    gap = _GAP if 1 < group < columns else 0
    lefts = [
        margin + (padding + i * (width + padding)) * scale + i // group * gap
        for i in range(columns)
    ]
    step = strip + (height + padding) * scale
    rows = -(-len(pixels) // columns)
    size = (lefts[-1] + (width + padding) * scale, top + rows * step + padding * scale)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row in range(rows):
        above = top + row * step + strip
        shown = pixels[row * columns : (row + 1) * columns]
        for first in range(0, len(shown), group):
            part = enlarged(grid(shown[first : first + group], group, padding), scale)
            canvas.paste(part, (lefts[first] - padding * scale, above))
        if row_names:
            middle = above + (padding + height / 2) * scale
            draw.text((margin - 8, middle), row_names[row], fill=_INK, font=font, anchor="rm")
        for i, name in enumerate(names[row * columns : (row + 1) * columns]):
            middle = (lefts[i] + width * scale / 2, above - strip / 2 + padding)
            _draw_name(draw, name, middle, float(width * scale))
    wide = (group * (width + padding) - padding) * scale
    for i, title in enumerate(titles):
        _draw_name(draw, title, (lefts[i * group] + wide / 2, top / 2), float(wide))
    return canvas


def _draw_name(
    draw: ImageDraw.ImageDraw, name: str, middle: tuple[float, float], width: float
) -> None:
    """Draw a name around its middle in at most `width` pixels: smaller if need be, then cut off."""
    font = font_of(_TEXT)
    size = _TEXT
    while font.getlength(name) > width and size > _SMALLEST_TEXT:
        size -= 1
        font = font_of(size)
    shown = name
    while shown and font.getlength(shown) > width:
        name = name[:-1]
        shown = f"{name}\N{HORIZONTAL ELLIPSIS}" if name else ""
    draw.text(middle, shown, fill=_INK, font=font, anchor="mm")


def grid_of_rows(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Arrange named rows of images below each other; return pixels (H, W) or (H, W, 3).

    rows: images (N, C, H, W) as for `grid` by name; all of the same shape.
    """
    columns = len(next(iter(rows.values())))
    return np.asarray(grid(np.concatenate(list(rows.values())), columns))


def cut_grid(
    pixels: np.ndarray, height: int, width: int, padding: int = 2, scale: int = 1
) -> np.ndarray:
    """Cut a picture of `grid` into its images, row by row.

    pixels: (H, W) or (H, W, 3) uint8. height, width: size of an image. padding, scale: as the
    picture was drawn with. Returns images (N, C, height, width). Raises InputError if the size of
    the picture does not fit.
    """
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    small = channels[:, ::scale, ::scale]
    rows, columns = (
        (n // scale - padding) // (side + padding)
        for n, side in zip(pixels.shape[:2], (height, width), strict=True)
    )
    sides = (rows * (height + padding) + padding, columns * (width + padding) + padding)
    if min(rows, columns) < 1 or pixels.shape[:2] != tuple(scale * side for side in sides):
        raise InputError(
            f"expected a grid of images of {width} x {height} pixels, enlarged by {scale}, "
            f"{scale * padding} pixels apart; found {pixels.shape[1]} x {pixels.shape[0]} pixels"
        )
    cells = small[:, padding:, padding:].reshape(
        len(small), rows, height + padding, columns, width + padding
    )[:, :, :height, :, :width]
    return cells.transpose(1, 3, 0, 2, 4).reshape(rows * columns, len(small), height, width)


def save_grid(images: Tensor | np.ndarray, path: Path, columns: int, scale: int = 1) -> None:
    """Write a grid as a PNG, durably; the same images give the same bytes.

    images: (N, C, H, W) with C = 1 or 3, uint8 or floating point in [0, 1].
    scale: factor by which the picture is enlarged; each pixel becomes scale x scale pixels.
    """
    if scale < 1:
        raise ConfigError(f"{path}: expected scale >= 1, found {scale}")
    write_bytes(path, png_bytes(enlarged(grid(images, columns), scale)))


def enlarged(picture: Image.Image, scale: int) -> Image.Image:
    """Enlarge a picture by an integer factor without smoothing."""
    size = (picture.width * scale, picture.height * scale)
    return picture.resize(size, Image.Resampling.NEAREST)


def side_by_side(
    originals: Tensor | np.ndarray, reconstructions: Tensor | np.ndarray, columns: int
) -> np.ndarray:
    """Interleave rows: `columns` originals, their reconstructions below, then the next originals.

    originals, reconstructions: (N, C, H, W) of the same shape, uint8 or floating point in [0, 1].
    Returns uint8 images for a grid of the same `columns`; an incomplete last row is filled with
    white images.
    """
    if columns < 1:
        raise ConfigError(f"columns: expected 1 or more, found {columns}")
    if tuple(originals.shape) != tuple(reconstructions.shape):
        raise InputError(
            "expected reconstructions of the same shape as the originals, found "
            f"{tuple(reconstructions.shape)} and {tuple(originals.shape)}"
        )
    pairs = np.stack([as_pixels(originals), as_pixels(reconstructions)])  # (2, N, C, H, W)
    image_shape = pairs.shape[2:]
    rows = -(-pairs.shape[1] // columns)
    full = np.full((2, rows * columns, *image_shape), _WHITE, dtype=np.uint8)
    full[:, : pairs.shape[1]] = pairs
    by_row = full.reshape(2, rows, columns, *image_shape)
    return by_row.swapaxes(0, 1).reshape(-1, *image_shape)  # (rows * 2 * columns, C, H, W)


def png_bytes(picture: Image.Image) -> bytes:
    """Encode a picture as PNG without metadata; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=9)
    return buffer.getvalue()
