"""Metadata never stands between a file and its pixels; only tag 274 of EXIF turns them."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import chunk, png, saved
from PIL import Image

from imagetok.data import ImageError
from imagetok.data.image_decoding import decode_image
from imagetok.data.image_header import read_header
from imagetok.data.in_memory import pixels_of
from imagetok.data.metadata import without_metadata

UPRIGHT = np.zeros((24, 16, 3), np.uint8)
UPRIGHT[:12, :, 0], UPRIGHT[12:, :, 2] = 255, 255  # red above blue
LYING = Image.fromarray(np.ascontiguousarray(np.rot90(UPRIGHT)))
"""As a camera stores it, with orientation 6."""
ORIENTATION = 274
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of a value of each type; the other types do not exist."""
POINTERS = (0x8769, 0x8825, 0xA005)
"""Tags of directories of camera settings, of position, of interoperability."""

Entry = tuple[int, int, int, bytes]


def entry(tag: int, kind: int, value: bytes, count: int | None = None) -> Entry:
    return tag, kind, len(value) // SIZES.get(kind, 1) if count is None else count, value


def turn(orientation: int = 6) -> Entry:
    return entry(ORIENTATION, 3, struct.pack("<H", orientation))


def directory(entries: list[Entry], at: int, follow: int = 0) -> bytes:
    """A directory at offset `at`, its entries as they come, and their longer values."""
    body, values, place = struct.pack("<H", len(entries)), b"", at + 6 + 12 * len(entries)
    for tag, kind, count, value in entries:
        body += struct.pack("<HHI", tag, kind, count)
        if len(value) <= 4:
            body += value.ljust(4, b"\0")
            continue
        body += struct.pack("<I", place + len(values))
        values += value + bytes(len(value) % 2)
    return body + struct.pack("<I", follow) + values


def exif(*more: Entry, inner: tuple[Entry, ...] = (), pointer: int = 0, first: Entry | None = None):
    """EXIF data with an orientation, more tags, and tags in an inner directory."""
    entries = sorted([first or turn(), *more])
    if pointer:
        entries = sorted([*entries, entry(pointer, 4, bytes(4))])
        start = 8 + len(directory(entries, 8))
        entries = [
            entry(tag, 4, struct.pack("<I", start)) if tag == pointer else (tag, *rest)
            for tag, *rest in entries
        ]
    outer = directory(entries, 8)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + outer + directory(list(inner), 8 + len(outer))


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments, each with its marker."""
    plain = saved(LYING, "JPEG", quality=95)
    more = (b"\xff" + bytes([marker]) + struct.pack(">H", len(s) + 2) + s for marker, s in segments)
    return plain[:2] + b"".join(more) + plain[2:]


PLAIN_PNG = png(np.asarray(LYING), 8, 2)


def png_with(*chunks: bytes) -> bytes:
    return PLAIN_PNG[:33] + b"".join(chunks) + PLAIN_PNG[33:]


def webp(metadata: bytes, kind: bytes = b"EXIF") -> bytes:
    still = saved(LYING, "WEBP", lossless=True)[12:]
    flags = {b"EXIF": 8, b"XMP ": 4, b"ICCP": 32}[kind]
    size = (LYING.width - 1).to_bytes(3, "little") + (LYING.height - 1).to_bytes(3, "little")
    parts = [(b"VP8X", bytes([flags, 0, 0, 0]) + size)]
    body = b"".join(k + struct.pack("<I", len(d)) + d for k, d in parts)
    extra = kind + struct.pack("<I", len(metadata)) + metadata + bytes(len(metadata) % 2)
    body = body + extra + still if kind == b"ICCP" else body + still + extra
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def tiff_with(*more: Entry, follow: int = 0, orientation: int = 6) -> bytes:
    """An uncompressed TIFF with more tags in its directory, and another page at `follow`."""
    pixels = np.asarray(LYING)
    needed = {
        **{256: LYING.width, 257: LYING.height, 259: 1, 262: 2, 273: 8, 277: 3},
        **{278: LYING.height, 279: pixels.size, 284: 1},
    }
    entries = [entry(tag, 4, struct.pack("<I", value)) for tag, value in needed.items()]
    entries += [entry(258, 3, struct.pack("<3H", 8, 8, 8)), turn(orientation), *more]
    start = 8 + pixels.size
    head = b"II*\0" + struct.pack("<I", start)
    return head + pixels.tobytes() + directory(sorted(entries), start, follow)


def decoded(data: bytes) -> np.ndarray:
    """The pixels; their size is known without decoding them, whatever turns them."""
    pixels = decode_image(data, "image").astype(int)
    header = read_header(io.BytesIO(data), "image")
    assert (header.height, header.width) == pixels.shape[:2]
    return pixels


def is_upright(data: bytes) -> bool:
    pixels = decoded(data)
    return pixels.shape == UPRIGHT.shape and np.abs(pixels - UPRIGHT).mean() < 8


def is_lying(data: bytes) -> bool:
    pixels = decoded(data)
    return pixels.shape == (16, 24, 3) and np.abs(pixels - np.asarray(LYING)).mean() < 8


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "jpeg": lambda data: jpeg((0xE1, data)),
    "png": lambda data: png_with(chunk(b"eXIf", data[6:])),
    "png after the pixels": lambda data: (
        PLAIN_PNG[:-12] + chunk(b"eXIf", data[6:]) + PLAIN_PNG[-12:]
    ),
    "webp": webp,
    "webp without name": lambda data: webp(data[6:]),
}
kinds = st.integers(0, 20)
values = st.binary(max_size=24)
tags = st.integers(0, 0xFFFF).filter(lambda tag: tag != ORIENTATION)
entries = st.builds(
    entry, tags, kinds, values, st.none() | st.integers(0, 40) | st.integers(0, 2**32 - 1)
)


@pytest.mark.parametrize("form", FORMS)
@given(more=st.lists(entries, max_size=3), inner=st.lists(entries, max_size=2), data=st.data())
@settings(max_examples=40)
def test_tags_of_any_kind_leave_an_image_upright(form, more, inner, data):
    pointer = data.draw(st.sampled_from([0, *POINTERS]))
    written = exif(*more, inner=tuple(inner), pointer=pointer)
    assert is_upright(FORMS[form](written))


@given(
    st.lists(entries.filter(lambda e: e[0] not in PIXEL_TAGS), max_size=3), st.binary(max_size=9)
)
def test_tags_of_any_kind_leave_a_tiff_upright(more, rest):
    assert is_upright(tiff_with(*more, follow=len(rest)) + rest)


PIXEL_TAGS = {*range(254, 330), 254, 330, 338, 339, 347, *range(512, 533), 50706} - {270, 271, 305}


@pytest.mark.slow
def test_ten_thousand_photos_with_one_more_tag_are_upright():
    draw = np.random.default_rng(0)
    wrong = []
    for number in range(10_000):
        tag, kind, length = draw.integers(1, 0xFFFF), draw.integers(0, 18), draw.integers(0, 40)
        if tag == ORIENTATION:
            continue
        count = None if draw.random() < 0.5 else int(draw.integers(0, 2**32))
        more = entry(int(tag), int(kind), draw.bytes(int(length)), count)
        place = draw.integers(0, 4)
        written = exif(more) if place == 3 else exif(inner=(more,), pointer=POINTERS[place])
        try:
            if not is_upright(jpeg((0xE1, written))):
                wrong.append((number, more))
        except ImageError as error:
            wrong.append((number, str(error)))
    assert not wrong


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "damaged",
    [
        b"Exif\0\0II*\0\xff\xff",
        b"Exif\0\0",
        b"Exif\0\0II*\0" + struct.pack("<IH", 0xFFFFFFFF, 1),
        b"Exif\0\0II*\0" + struct.pack("<IH", 8, 0xFFFF),
        b"Exif\0\0MM\0*" + bytes(40),
        b"Exif\0\0" + bytes(range(256)),
        exif(first=entry(ORIENTATION, 2, b"6\0")),
        exif(first=turn(0)),
        exif(first=turn(9)),
        exif(first=entry(ORIENTATION, 3, b"", 0)),
    ],
)
def test_damaged_exif_turns_nothing(form, damaged):
    assert is_lying(FORMS[form](damaged))


def test_an_orientation_before_the_damage_counts():
    cut = exif(entry(0x9999, 2, b"words" * 9))
    assert is_upright(jpeg((0xE1, cut[: 6 + 8 + 2 + 12])))
    long = exif(entry(0x927C, 7, bytes(90_000)))  # a maker note, in two segments
    assert is_upright(jpeg((0xE1, long[:60_000]), (0xE1, b"Exif\0\0" + long[60_000:])))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind, letter", [(1, "B"), (3, "H"), (4, "I")])
def test_an_orientation_is_read_in_both_byte_orders_and_any_integer(order, kind, letter):
    value = struct.pack(order + letter, 6).ljust(4, b"\0")
    first = struct.pack(f"{order}HHHI", 1, ORIENTATION, kind, 1) + value + bytes(4)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    written = b"Exif\0\0" + mark + struct.pack(f"{order}I", 8) + first
    for form in FORMS.values():
        assert is_upright(form(written))


def test_the_orientation_of_a_thumbnail_turns_nothing():
    first = directory([entry(0x131, 2, b"words")], 8, follow=8 + 6 + 12 + 6)
    second = directory([turn(6)], 8 + len(first))
    assert is_lying(jpeg((0xE1, b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + second)))


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize(
    "data",
    [
        jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        webp(XMP, b"XMP "),
        tiff_with(entry(700, 1, XMP), orientation=1),
        saved(LYING, "AVIF", quality=95, xmp=XMP),
    ],
)
def test_xmp_turns_nothing(data):
    assert is_lying(data)


@pytest.mark.parametrize(
    "segment",
    [
        (0xE0, b"JFIF\0"),  # cut short
        (0xEE, b"Adobe"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"ICC_PROFILE\0\1\2" + bytes(60_000)),  # the second part is missing
        (0xE2, b"MPF\0II*\0" + bytes(20)),
        (
            0xE2,
            b"MPF\0II*\0" + struct.pack("<I", 8) + directory([entry(0xB001, 4, b"\x09\0\0\0")], 8),
        ),
        (0xE2, b"FPXR\0"),
        (0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
        (0xED, b"Photoshop 3.0\x008BIM\x04\x04\xff"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x"),
        (0xEB, b"JP\0\0"),
        (0xFE, bytes(65_000)),
    ],
)
def test_segments_of_a_jpeg_that_pixels_do_not_need_do_no_harm(segment):
    assert is_upright(jpeg((0xE1, exif()), segment))
    assert is_upright(jpeg(segment, (0xE1, exif())))


@pytest.mark.parametrize(
    "compression, big",
    [(None, False), (None, True), ("tiff_lzw", False), ("tiff_adobe_deflate", False)],
)
def test_a_tiff_of_any_kind_is_turned_by_its_tag(compression, big):
    form = Image.Exif()
    form[ORIENTATION] = 6
    form[270] = "of a picture"
    data = saved(LYING, "TIFF", exif=form, big_tiff=big, compression=compression)
    assert data[2] == (43 if big else 42)
    assert is_upright(data)


@pytest.mark.parametrize("kind", [b"EXIF", b"XMP ", b"ICCP"])
def test_a_webp_whose_header_announces_what_it_lacks_is_read(kind):
    data = webp(b"words", kind)
    assert is_lying(data)
    assert is_lying(data[:20] + b"\x2c" + data[21:])  # all three


def test_what_follows_a_jpeg_does_no_harm():
    second = saved(Image.new("RGB", (9, 9)), "JPEG")  # a gain map, or a second view
    assert is_upright(jpeg((0xE1, exif())) + second)
    assert is_upright(jpeg((0xE1, exif())) + b"\0\0\0\x18ftypmp42" + bytes(5000))  # a film


def test_colours_of_a_jpeg_are_read_by_its_own_segments():
    """Adobe's segment says whether three colours are RGB, and four are inverted."""
    for image in (LYING, LYING.convert("CMYK")):
        for options in ({}, {"keep_rgb": True}):
            data = saved(image, "JPEG", quality=95, subsampling=0, **options)
            assert is_lying(data)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"display\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iCCP", b"display\0\7nothing"),
        chunk(b"iCCP", b"display"),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * (1 << 20))),
        chunk(b"zTXt", b"workflow\0\1"),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"{}" * (1 << 20))),
        chunk(b"tEXt", b"workflow\0" + b"{}" * (5 << 20)),
        chunk(b"tEXt", b"words\0here")[:-4] + b"\0\0\0\0",  # a wrong checksum
        chunk(b"gAMA", b""),
        chunk(b"cHRM", b"123"),
        chunk(b"pHYs", b""),
        chunk(b"sRGB", b""),
        chunk(b"acTL", b""),
        chunk(b"acTL", struct.pack(">II", 0, 0)),
        chunk(b"fcTL", struct.pack(">IIIII", 7, 99, 99, 99, 99) + bytes(6)),
        chunk(b"fdAT", b""),
        chunk(b"prVt", b"of a program"),
    ],
)
def test_chunks_of_a_png_that_pixels_do_not_need_do_no_harm(extra):
    turned = chunk(b"eXIf", exif()[6:])
    assert is_upright(png_with(turned, extra))
    assert is_upright(png_with(extra, turned))
    assert is_upright(PLAIN_PNG[:-12] + extra + turned + PLAIN_PNG[-12:])


def test_many_texts_of_a_png_do_no_harm():
    text = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(1 << 20)))
    assert is_lying(png_with(*[text] * 70))


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt"])
def test_exif_in_a_text_of_a_png_is_read_as_in_its_chunk(kind):
    """ImageMagick and older programs write it so."""
    digits = exif().hex()
    lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    text = f"\nexif\n{len(digits) // 2:8}\n{lines}\n".encode()
    body = text if kind == b"tEXt" else b"\0" + zlib.compress(text)
    written = chunk(kind, b"Raw profile type exif\0" + body)
    assert is_upright(png_with(written))
    assert is_lying(png_with(chunk(b"eXIf", exif(first=turn(1))[6:]), written))  # the chunk wins
    for damaged in (b"\0\0\n\n\nxyz", b"\1", b""):
        assert is_lying(png_with(chunk(kind, b"Raw profile type exif\0" + damaged)))


def test_a_flipped_bit_of_a_png_changes_no_pixel_unnoticed():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    whole = png(grey, 8, 0, chunk(b"tRNS", b"\0\5"), chunk(b"tEXt", b"a\0b"))
    expected = decode_image(whole, "image")
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            try:
                assert np.array_equal(decode_image(bytes(flipped), "image"), expected)
            except ImageError:
                continue


def avif_with_damaged_exif(orientation: int) -> bytes:
    form = Image.Exif()
    form[ORIENTATION] = orientation
    form[270] = "of a picture"
    data = saved(LYING, "AVIF", quality=95, exif=form)
    assert data.count(b"of a picture") == 1
    start = data.rindex(b"Exif\0\0", 0, data.index(b"of a picture"))
    return data[:start] + bytes(range(200, 214)) + data[start + 14 :]


def test_damaged_exif_of_an_avif_does_no_harm():
    """How an AVIF is turned is a property of the image; Pillow writes it so."""
    assert is_upright(avif_with_damaged_exif(6))
    assert is_lying(avif_with_damaged_exif(1))


def test_boxes_of_a_jpeg_2000_that_pixels_do_not_need_do_no_harm():
    data = saved(LYING, "JPEG2000")
    at = data.index(b"jp2h") - 4
    size = int.from_bytes(data[at : at + 4])
    broken = struct.pack(">I4s", 30, b"res ") + b"\0\0\0\x09resc\1" + bytes(13)
    header = struct.pack(">I", size + len(broken)) + data[at + 4 : at + size] + broken
    uuid = struct.pack(">I4s", 5000, b"uuid") + bytes(4992)
    assert is_lying(data[:at] + uuid + header + uuid + data[at + size :])


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}])
def test_a_jpeg_2000_that_is_cut_anywhere_is_refused(options):
    """Where tiles end, decoders take what is there for the whole image."""
    data = saved(LYING, "JPEG2000", **options)
    for cut in range(len(data)):
        with pytest.raises(ImageError):
            decode_image(data[:cut], "image")
    for behind in (b"", bytes(5), b"no box"):
        assert is_lying(data + behind)


@pytest.mark.parametrize(
    "data",
    [
        tiff_with(entry(50706, 1, b"\1\4\0\0")),  # DNG
        tiff_with(entry(254, 4, b"\1\0\0\0"), entry(330, 4, b"\x08\0\0\0")),  # NEF, ARW
        b"II*\0\x10\0\0\0CR\2\0" + bytes(50),  # CR2
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(50),  # CR3
        b"FUJIFILMCCD-RAW 0201" + bytes(50),
    ],
)
def test_a_raw_photo_is_refused_instead_of_its_thumbnail(data):
    with pytest.raises(ImageError, match="found a raw photo of a camera; convert it") as caught:
        decode_image(data, "image")
    assert caught.value.reason == "unsupported_format"


def test_a_tiff_with_the_name_of_a_raw_photo_is_refused():
    assert is_upright(tiff_with())
    with pytest.raises(ImageError, match="found a raw photo of a camera"):
        decode_image(tiff_with(), "folder/photo.PEF")
    assert decode_image(PLAIN_PNG, "photo.PEF").shape == (16, 24, 3)  # its content decides


def test_a_pil_image_is_turned_as_its_file():
    for form in FORMS.values():
        for written in (exif(), exif(entry(0x9204, 10, struct.pack("<ii", -2, 0)))):
            data = form(written)
            with Image.open(io.BytesIO(data)) as image:
                assert np.array_equal(pixels_of(image), decode_image(data, "image"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "AVIF", "JPEG 2000", "GIF", None])
@given(data=st.binary(max_size=80))
@settings(max_examples=60)
def test_bytes_of_any_kind_are_stripped_without_an_error(kind, data):
    start = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "TIFF": b"II*\0\x08\0\0\0"}
    without_metadata(start.get(kind or "", b"") + data, kind)
