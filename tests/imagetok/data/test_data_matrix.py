"""The image matrix: mode x depth x alpha x orientation x animation x damage, pixel by pixel.

Most files are written byte by byte, and what they must give is computed here, not by PIL.
"""

import struct

import numpy as np
import pytest
from image_files import chunk, interlaced_png, packed, png, pnm, saved, tiff
from PIL import Image, ImageCms, ImageFile

from imagetok.data import ImageError, open_image
from imagetok.data.image_decoding import MAX_BYTES, decode_image
from imagetok.errors import ConfigError

H, W = 6, 8
DRAW = np.random.default_rng(0)
"""The pixels of every file here."""


def drawn(bits: int, *channels: int) -> np.ndarray:
    return DRAW.integers(0, 2**bits, (H, W, *channels), dtype=np.uint32)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha.astype(float) / 255
    return colour * share + 255 * (1 - share)


def scaled(values: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(values * (255 / (2**bits - 1)))


def grey_pngs() -> dict:
    cases = {}
    for bits in (1, 2, 4, 8, 16):
        values = drawn(bits)
        cases[f"png grey {bits}"] = (png(values, bits, 0), scaled(values, bits))
        see_through = int(values[2, 3])
        trns = chunk(b"tRNS", struct.pack(">H", see_through))
        expected = np.where(values == see_through, 255, scaled(values, bits))
        cases[f"png grey {bits} transparent"] = (png(values, bits, 0, trns), expected)
        # White shows nothing, so also the darkest value.
        trns = chunk(b"tRNS", struct.pack(">H", int(values.min())))
        expected = np.where(values == values.min(), 255, scaled(values, bits))
        cases[f"png grey {bits} dark transparent"] = (png(values, bits, 0, trns), expected)
    return cases


def colour_pngs() -> dict:
    rgb = drawn(8, 3)
    wide = drawn(16, 3)
    key = tuple(int(v) for v in rgb[1, 1])
    expected = np.where((rgb == rgb[1, 1]).all(-1, keepdims=True), 255, rgb)
    cases = {
        "png rgb 8": (png(rgb, 8, 2), rgb),
        "png rgb 8 transparent": (
            png(rgb, 8, 2, chunk(b"tRNS", struct.pack(">3H", *key))),
            expected,
        ),
        "png rgb 16": (png(wide, 16, 2), wide >> 8),  # PIL keeps the upper byte
        "png rgb 16 transparent": (png(wide, 16, 2, chunk(b"tRNS", bytes(6))), "unsupported_mode"),
        "png interlaced": (interlaced_png(rgb[..., 0].astype(np.uint8)), rgb[..., 0]),
    }
    for bits in (8, 16):
        values = drawn(bits, 2)
        values[0, :, 1] = 0
        values[1, :, 1] = 2**bits - 1
        seen = values >> (bits - 8)
        cases[f"png grey+alpha {bits}"] = (
            png(values, bits, 4),
            over_white(*seen.transpose(2, 0, 1)),
        )
        values = drawn(bits, 4)
        seen = values >> (bits - 8)
        cases[f"png rgba {bits}"] = (png(values, bits, 6), over_white(seen[..., :3], seen[..., 3:]))
    return cases


def palette_pngs() -> dict:
    cases = {}
    for bits in (1, 2, 4, 8):
        values = drawn(bits)
        palette = DRAW.integers(0, 256, (2**bits, 3), dtype=np.uint32)
        alpha = np.full((2**bits, 1), 255)
        alpha[:2, 0] = 0, 100
        plte = chunk(b"PLTE", palette.astype(np.uint8).tobytes())
        cases[f"png palette {bits}"] = (png(values, bits, 3, plte), palette[values])
        trns = chunk(b"tRNS", alpha[:2].astype(np.uint8).tobytes())
        cases[f"png palette {bits} alpha"] = (
            png(values, bits, 3, plte, trns),
            over_white(palette, alpha)[values],
        )
    return cases


def grey_tiffs() -> dict:
    cases = {}
    for bits in (1, 4, 8):
        values = drawn(bits)
        for photometric in (0, 1):  # white is zero, black is zero
            data = b"".join(packed(values, bits))
            shown = values if photometric else 2**bits - 1 - values
            name = f"tiff grey {bits} photometric {photometric}"
            cases[name] = (tiff(data, (W, H), (bits,), photometric), scaled(shown, bits))
    values = drawn(16)
    for order in "<>":
        data = values.astype(f"{order}u2").tobytes()
        cases[f"tiff grey 16 {order}"] = (tiff(data, (W, H), (16,), 1, order), scaled(values, 16))
        cases[f"tiff grey 16 inverted {order}"] = (
            tiff(data, (W, H), (16,), 0, order),
            "unsupported_mode" if order == "<" else "unreadable",  # PIL knows only the first
        )
        for form, kind in [(1, "u4"), (2, "i4"), (3, "f4")]:  # unsigned, signed, float
            data32 = (values / 7).astype(order + kind).tobytes()
            cases[f"tiff {kind} {order}"] = (
                tiff(data32, (W, H), (32,), 1, order, t339=("H", (form,))),
                "unreadable" if (kind, order) == ("u4", ">") else "unsupported_mode",
            )
    twelve = b"".join(packed(drawn(12), 12))
    cases["tiff grey 12"] = (tiff(twelve, (W, H), (12,), 1), "unsupported_mode")
    half = values.astype("<f2").tobytes()
    cases["tiff half float"] = (tiff(half, (W, H), (16,), 1, t339=("H", (3,))), "unreadable")
    return cases


def colour_tiffs() -> dict:
    def file(values: np.ndarray, bits: int, photometric: int, order: str = "<", **more) -> bytes:
        data = values.astype(f"{order}u{bits // 8}").tobytes()
        return tiff(data, (W, H), (bits,) * values.shape[2], photometric, order, **more)

    rgb, wide, rgba, cmyk = drawn(8, 3), drawn(16, 3), drawn(8, 4), drawn(8, 4)
    alpha = rgba[..., 3:]
    premultiplied = np.concatenate([np.minimum(rgba[..., :3], alpha), alpha], -1)
    ink, black = cmyk[..., :3].astype(float), cmyk[..., 3:].astype(float)
    palette = DRAW.integers(0, 256, (256, 3), dtype=np.uint32)
    index = drawn(8, 1)
    return {
        "tiff rgb": (file(rgb, 8, 2), rgb),
        "tiff rgb >": (file(rgb, 8, 2, ">"), rgb),
        "tiff rgb 16 <": (file(wide, 16, 2), wide >> 8),
        "tiff rgb 16 >": (file(wide, 16, 2, ">"), wide >> 8),
        "tiff rgba": (file(rgba, 8, 2, t338=("H", (2,))), over_white(rgba[..., :3], alpha)),
        "tiff rgba premultiplied": (
            file(premultiplied, 8, 2, t338=("H", (1,))),
            premultiplied[..., :3] + 255.0 - alpha,
        ),
        "tiff rgb + unknown": (file(rgba, 8, 2, t338=("H", (0,))), rgba[..., :3]),
        "tiff grey+alpha": (
            file(rgba[..., 2:], 8, 1, t338=("H", (2,))),
            over_white(rgba[..., 2], alpha[..., 0]),
        ),
        "tiff palette": (
            file(index, 8, 3, t320=("H", tuple(int(v) * 257 for v in palette.T.flatten()))),
            palette[index[..., 0]],
        ),
        "tiff cmyk": (file(cmyk, 8, 5), (255 - ink) * (255 - black) / 255),
        "tiff lab": (file(rgb, 8, 8), "unsupported_mode"),
    }


def smooth() -> np.ndarray:
    rows, columns = np.mgrid[:16, :24]
    return np.stack([rows * 15, columns * 10, 255 - rows * 8 - columns * 4], -1).astype(np.uint8)


def saved_by_pil() -> dict:
    rgb, rgba = drawn(8, 3).astype(np.uint8), drawn(8, 4).astype(np.uint8)
    bits = drawn(1).astype(bool)
    colour, grey = Image.fromarray(rgb), Image.fromarray(rgb[..., 0])
    see_through = Image.fromarray(rgba)
    soft, soft_grey = Image.fromarray(smooth()), Image.fromarray(smooth()[..., 0])
    other = Image.fromarray(255 - rgb)
    few = Image.fromarray(rgb // 128 * 255)
    paletted = few.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    shown = over_white(rgba[..., :3], rgba[..., 3:])
    animated = {"save_all": True, "append_images": [other]}
    animated_soft = {"save_all": True, "append_images": [Image.fromarray(255 - smooth())]}
    wide = drawn(16)
    wide_gamut = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    cmyk = soft.convert("CMYK")
    return {
        "bmp rgb": (saved(colour, "BMP"), rgb),
        "bmp rgb + unused": (saved(see_through, "BMP"), rgba[..., :3]),
        "bmp grey": (saved(grey, "BMP"), rgb[..., 0]),
        "bmp palette": (saved(paletted, "BMP"), rgb // 128 * 255),
        "bmp 1 bit": (saved(Image.fromarray(bits), "BMP"), bits * 255),
        "gif": (saved(paletted, "GIF"), rgb // 128 * 255),
        "gif grey": (saved(grey, "GIF"), np.repeat(rgb[..., :1], 3, -1)),
        "gif animated": (saved(paletted, "GIF", **animated), rgb // 128 * 255),
        "webp rgb": (saved(colour, "WEBP", lossless=True), rgb),
        "webp rgba": (saved(see_through, "WEBP", lossless=True, exact=True), shown),
        "webp animated": (saved(colour, "WEBP", lossless=True, **animated), rgb),
        "png animated": (saved(colour, "PNG", **animated), rgb),
        "png animated, apart": (saved(colour, "PNG", default_image=True, **animated), rgb),
        "png profile": (saved(colour, "PNG", icc_profile=wide_gamut), rgb),
        "tiff profile": (saved(colour, "TIFF", icc_profile=wide_gamut), rgb),
        "tiff pages": (saved(colour, "TIFF", **animated), rgb),
        "tiff lzw": (saved(colour, "TIFF", compression="tiff_lzw"), rgb),
        "tiff deflate": (saved(colour, "TIFF", compression="tiff_adobe_deflate"), rgb),
        "tiff group 4": (saved(Image.fromarray(bits), "TIFF", compression="group4"), bits * 255),
        "jp2 rgb": (saved(colour, "JPEG2000"), rgb),
        "jp2 grey": (saved(grey, "JPEG2000"), rgb[..., 0]),
        "jp2 rgba": (saved(see_through, "JPEG2000"), shown),
        "jp2 codestream": (saved(colour, "JPEG2000", no_jp2=True), rgb),
        "avif": (saved(soft, "AVIF", quality=95, subsampling="4:4:4"), smooth()),
        "avif grey": (saved(soft_grey, "AVIF", quality=95), smooth()[..., 0]),
        "avif animated": (saved(soft, "AVIF", quality=95, **animated_soft), smooth()),
        "ppm": (saved(colour, "PPM"), rgb),
        "pgm": (saved(grey, "PPM"), rgb[..., 0]),
        "pbm": (saved(Image.fromarray(bits), "PPM"), bits * 255),
        "pgm 16": (pnm(5, wide.astype(">u2"), 65535), scaled(wide, 16)),
        "pgm 12": (pnm(5, (wide >> 4).astype(">u2"), 4095), scaled(wide >> 4, 12)),
        "pgm 4": (pnm(5, (wide >> 12).astype(np.uint8), 15), scaled(wide >> 12, 4)),
        "pgm text": (b"P2 # made by hand\n2 1\n255\n7 200\n", np.array([[7, 200]])),
        "jpeg rgb": (saved(soft, "JPEG", quality=98, subsampling=0), smooth()),
        "jpeg grey": (saved(soft_grey, "JPEG", quality=98), smooth()[..., 0]),
        "jpeg in tiff": (saved(soft, "TIFF", compression="jpeg", quality=98), smooth()),
        "jpeg progressive": (
            saved(soft, "JPEG", quality=98, subsampling=0, progressive=True),
            smooth(),
        ),
        "jpeg cmyk": (saved(cmyk, "JPEG", quality=98, subsampling=0), smooth()),
        "jpeg profile": (
            saved(soft, "JPEG", quality=98, subsampling=0, icc_profile=wide_gamut),
            smooth(),
        ),
    }


TURNS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""How a picture is turned upright, by its EXIF orientation."""


def turned() -> dict:
    """Every orientation in every kind of pixel."""
    cases = {}
    for orientation, turn in TURNS.items():
        exif = chunk(
            b"eXIf", b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
        )
        tag = {"t274": ("H", (orientation,))}
        rgba, grey, wide, index = drawn(8, 4), drawn(8), drawn(16), drawn(4)
        palette = DRAW.integers(0, 256, (16, 3), dtype=np.uint32)
        plte = chunk(b"PLTE", palette.astype(np.uint8).tobytes())
        shown = over_white(rgba[..., :3], rgba[..., 3:])
        data = wide.astype(">u2").tobytes()
        for name, file, expected in [
            ("png rgba", png(rgba, 8, 6, exif), shown),
            ("png grey", png(grey, 8, 0, exif), grey),
            ("png grey 16", png(wide, 16, 0, exif), scaled(wide, 16)),
            ("png 1 bit", png(grey % 2, 1, 0, exif), grey % 2 * 255),
            ("png palette", png(index, 4, 3, exif, plte), palette[index]),
            ("tiff grey 16", tiff(data, (W, H), (16,), 1, ">", **tag), scaled(wide, 16)),
        ]:
            cases[f"{name} turned {orientation}"] = (file, turn(expected))
    return cases


def large() -> dict:
    """Files that claim 60,000 x 60,000 pixels."""
    side = 60_000
    nothing = np.zeros((1, 1), np.uint32)
    jpeg = bytearray(saved(Image.new("L", (8, 8)), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", side, side)
    bmp = bytearray(saved(Image.new("L", (8, 8)), "BMP"))
    bmp[18:26] = struct.pack("<II", side, side)
    gif = bytearray(saved(Image.new("L", (8, 8)), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    frame = bytearray(saved(Image.new("L", (8, 8)), "GIF"))
    start = frame.index(b"\x2c", 13 + 3 * 2 ** ((frame[10] & 7) + 1)) + 5
    frame[start : start + 4] = struct.pack("<HH", side, side)
    # One still frame: 14 bits of each side less one, then nothing.
    webp = b"VP8L" + struct.pack("<IBI", 6, 0x2F, 16_382 | 16_382 << 14) + bytes(1)
    return {
        "png": png(nothing, 8, 0, size=(side, side)),
        "tiff": tiff(b"\0", (side, side), (8,), 1),
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "gif": bytes(gif),
        "gif frame": bytes(frame),
        "webp": b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp,
        "png 65,537 wide": png(nothing, 8, 0, size=(65_537, 1)),
    }


def damaged() -> dict:
    """Not images, other formats, cut and flipped ones."""
    whole = png(drawn(8, 3), 8, 2)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    jpeg = saved(Image.fromarray(smooth()), "JPEG")
    webp = saved(Image.fromarray(smooth()), "WEBP", lossless=True)
    avif = struct.pack(">I", 24) + b"ftypavif" + bytes(12)
    jp2 = saved(Image.fromarray(smooth()), "JPEG2000")
    return {
        "empty": (b"", "not_image"),
        "a page": (b"<!doctype html><html>", "not_image"),
        "zeros": (bytes(4096), "not_image"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported_format"),
        "pdf": (saved(Image.new("L", (4, 4)), "PDF"), "unsupported_format"),
        "ico": (saved(Image.new("L", (16, 16)), "ICO"), "unsupported_format"),
        "pfm": (saved(Image.new("F", (4, 4)), "PPM"), "unsupported_mode"),
        "avif head": (avif, "unreadable"),
        "jp2 cut": (jp2[:-200], "truncated"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
        "png cut": (whole[: len(whole) // 2], "truncated"),
        "png flipped": (bytes(flipped), "unreadable"),
        "png of no size": (png(np.zeros((1, 1), np.uint32), 8, 0, size=(0, 4)), "unreadable"),
        "jpeg cut": (jpeg[:-400], "truncated"),
        "jpeg head": (jpeg[:20], "unreadable"),
        "webp cut": (webp[:-9], "truncated"),
        **{f"large {kind}": (data, "too_large") for kind, data in large().items()},
    }


CASES = {
    **grey_pngs(),
    **colour_pngs(),
    **palette_pngs(),
    **grey_tiffs(),
    **colour_tiffs(),
    **saved_by_pil(),
    **turned(),
    **damaged(),
}
LOSSY = {"jpeg": 5, "avif": 20}
"""How far a grey level of a lossy format may be from what was written."""


@pytest.mark.parametrize("name", CASES)
def test_every_file_gives_its_pixels_or_its_refusal(name, tmp_path):
    data, expected = CASES[name]
    path = tmp_path / "image"
    path.write_bytes(data)
    if isinstance(expected, str):
        with pytest.raises(ImageError) as caught:
            open_image(path)
        assert (caught.value.reason, caught.value.path) == (expected, str(path))
        assert str(caught.value).startswith(f"{path}: ")
        return
    pixels = open_image(path)
    assert pixels.dtype == np.uint8
    if pixels.ndim == 3 and expected.ndim == 2:  # grey in a colour mode
        assert np.ptp(pixels, axis=-1).max() == 0
        pixels = pixels[..., 0]
    assert pixels.shape == expected.shape
    # A mixture with white may be rounded either way.
    exact = 0 if np.issubdtype(expected.dtype, np.integer) else 1
    allowed = LOSSY.get(name.split()[0], exact)
    assert np.abs(pixels - expected.astype(float)).max() <= allowed
    assert np.array_equal(decode_image(data, "in memory"), open_image(path))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_classes_of_a_label_map_are_the_numbers_in_the_file(bits):
    classes = drawn(bits)
    rows = b"".join(packed(classes, bits))
    ramp = tuple(range(3 * 2**bits))
    for data in (
        png(classes, bits, 0),
        png(classes, bits, 3, chunk(b"PLTE", bytes(i % 256 for i in ramp))),
        tiff(rows, (W, H), (bits,), 1),
        tiff(rows, (W, H), (bits,), 1, ">"),
        tiff(rows, (W, H), (bits,), 3, t320=("H", ramp)),
    ):
        found = decode_image(data, "map", as_labels=True)
        assert found.dtype == np.uint8
        assert np.array_equal(found, classes)
    with pytest.raises(ImageError, match="expected a label map with black as zero") as caught:
        decode_image(tiff(rows, (W, H), (bits,), 0), "map", as_labels=True)
    assert caught.value.reason == "unsupported_mode"


def test_a_pgm_is_a_label_map_unless_its_levels_would_be_scaled():
    classes = drawn(4).astype(np.uint8)
    assert np.array_equal(decode_image(pnm(5, classes, 255), "map", as_labels=True), classes)
    for data, found in [
        (pnm(5, classes, 15), "grey levels up to 15"),
        (pnm(5, classes.astype(">u2"), 65535), "grey levels up to 65535|mode I;16"),
        (saved(Image.fromarray(classes > 7), "PPM"), "white as zero"),
    ]:
        with pytest.raises(ImageError, match=f"expected a label map .* found ({found})") as caught:
            decode_image(data, "map", as_labels=True)
        assert caught.value.reason == "unsupported_mode"


def test_a_file_that_is_too_long_is_refused_unread(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(png(drawn(8), 8, 0))
    with path.open("r+b") as file:
        file.truncate(MAX_BYTES + 1)  # a hole, that takes no room
    with pytest.raises(ImageError, match="512 MiB, found a larger file") as caught:
        open_image(path)
    assert caught.value.reason == "too_large"


def test_a_wrong_suffix_does_not_matter(tmp_path):
    grey = drawn(8)
    (tmp_path / "image.jpg").write_bytes(png(grey, 8, 0))
    assert np.array_equal(open_image(tmp_path / "image.jpg"), grey)


def test_pil_must_not_be_told_to_let_damage_pass(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ConfigError, match="LOAD_TRUNCATED_IMAGES is True"):
        decode_image(png(drawn(8), 8, 0), "image")
