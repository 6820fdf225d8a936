"""Image formats: which are read, which are only recognised, by content and by file name."""

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

READ = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo", ".jps"),
    "PNG": (".png", ".apng"),
    "WebP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "HEIC": (".heic", ".heif", ".hif", ".heics", ".heifs"),
    "JPEG 2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "PNM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
}
"""Formats that are read, with the endings of their files; HEIC with `imagetok[heic]` only."""
RAW = "a raw photo of a camera"
RECOGNISED = {
    RAW: (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".k25", ".kdc"),
        *(".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl"),
        *(".sr2", ".srf", ".srw", ".x3f"),
    ),
    "SVG": (".svg", ".svgz"),
    "EPS": (".eps",),
    "PSD": (".psd", ".psb"),
    "XCF": (".xcf",),
    "ICO": (".ico",),
    "TGA": (".tga",),
    "DDS": (".dds",),
    "PCX": (".pcx",),
    "QOI": (".qoi",),
    "SGI": (".sgi",),
    "OpenEXR": (".exr",),
    "FITS": (".fits",),
    "JPEG XL": (".jxl",),
    "JPEG XR": (".jxr", ".hdp", ".wdp"),
    "BPG": (".bpg",),
}
"""Formats of pictures that are not read; their files are counted and named as skipped."""
_OF_0_2 = frozenset(
    [".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]
)
_READ_FORMAT = {ending: kind for kind, endings in READ.items() for ending in endings}
_RECOGNISED_FORMAT = {ending: kind for kind, endings in RECOGNISED.items() for ending in endings}
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0\x10\0\0\0CR", RAW),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    *((b"P%d" % i, "PNM") for i in range(1, 8)),
    (b"Pf", "PNM"),
    (b"PF", "PNM"),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"MMOR", RAW),
    (b"IIU\0", RAW),
    (b"FOVb", RAW),
    (b"%!PS", "EPS"),
    (b"%PDF", "PDF"),
    (b"8BPS", "PSD"),
    (b"gimp xcf", "XCF"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II\xbc\1", "JPEG XR"),
    (b"v/1\1", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"DDS ", "DDS"),
    (b"SIMPLE  =", "FITS"),
    (b"qoif", "QOI"),
    (b"BPG\xfb", "BPG"),
    (b"<svg", "SVG"),
)
HEAD_BYTES = 64
"""Bytes of a file that `format_of` looks at."""
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
    b"crx ": RAW,
}


def format_of(head: bytes) -> str | None:
    """Return the format of a file by its first `HEAD_BYTES`; None for anything else."""
    if head[:4] == b"RIFF":
        return "WebP" if head[8:12] == b"WEBP" else None
    if head[4:8] == b"ftyp":
        size = min(int.from_bytes(head[:4]), len(head))
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, size, 4))]
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def format_by_name(name: str) -> str | None:
    """Return the format that the ending of a file name stands for; None for other endings."""
    ending = PurePosixPath(name).suffix.lower()
    return _READ_FORMAT.get(ending) or _RECOGNISED_FORMAT.get(ending)


def is_image_name(name: str) -> bool:
    """Return whether a file counts as an image by its name, whether imagetok reads it or not.

    The last ending decides, in any case. Hidden files, such as macOS's `._x.jpg`, do not count.
    """
    base = name.rpartition("/")[2]
    return not base.startswith(".") and format_by_name(base) is not None


def newly_known(names: Iterable[str]) -> dict[str, int]:
    """Count, by ending, the file names that version 0.2 did not take for images."""
    endings = (PurePosixPath(name).suffix.lower() for name in names)
    return Counter(e for e in endings if e not in _OF_0_2 and format_by_name(f"x{e}") is not None)


def is_read(name: str) -> bool:
    """Return whether the ending of a file name is that of a format that imagetok reads."""
    return PurePosixPath(name).suffix.lower() in _READ_FORMAT
