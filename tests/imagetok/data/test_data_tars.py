"""Tars of images: read in place, in order, and nothing hostile or damaged goes unnoticed."""

import gzip
import io
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from imagetok.data import NO_LABEL, ImageError, WebDatasetConfig, open_images
from imagetok.data.shard_patterns import expand_shards
from imagetok.data.tar_index import tar_members
from imagetok.data.webdataset_tars import TarImages
from imagetok.errors import ConfigError, InputError, ResourceError
from imagetok.images import ImageContract

CONTRACT = ImageContract(height=4, width=4)


def picture(number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 50, 100)).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], **options) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1.5  # webdataset's writer has such times, which need extended headers
            tar.addfile(info, io.BytesIO(data))
    return path


def opened(pattern: Path | str, split: str = "all", **options) -> TarImages:
    dataset = open_images(WebDatasetConfig(shards=str(pattern), **options), split, CONTRACT)
    assert isinstance(dataset, TarImages)
    return dataset


def reds(dataset: TarImages) -> list[int]:
    return dataset.read(range(len(dataset))).images[:, 0, 0, 0].tolist()


SAMPLES = {
    "b/1.jpg.txt": b"no image",
    "b/1.png": picture(1),
    "b/1.cls": b"3\n",
    "a/2.cls": b"0",
    "a/2.png": picture(2),
    "a/3.x.PNG": picture(3),
    "a/.hidden.png": b"",
    "__index__.png": b"",
    "LICENSE": b"free",
}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_read_in_the_order_of_the_tar(tmp_path, form):
    long = f"{'folder/' * 30}4.png"
    members = {**SAMPLES, long: picture(4)} if form != tarfile.USTAR_FORMAT else SAMPLES
    dataset = opened(write_tar(tmp_path / "a.tar", members, format=form))
    assert reds(dataset) == [1, 2, 3, 4][: len(dataset)]
    assert len(dataset) == (3 if form == tarfile.USTAR_FORMAT else 4)
    assert dataset.read([0, 1, 2]).labels.tolist() == [3, 0, NO_LABEL]
    assert dataset.class_names == ("0", "1", "2", "3")
    assert dataset.path_of(0) == f"{tmp_path}/a.tar/b/1.png"


def test_braces_and_globs_name_many_tars_in_order(tmp_path):
    for number in range(12):
        write_tar(tmp_path / f"x-{number:02d}.tar", {f"{number}.png": picture(number)})
    assert reds(opened(tmp_path / "x-{00..11}.tar")) == list(range(12))
    assert reds(opened(tmp_path / "x-*.tar")) == list(range(12))
    assert reds(opened(f"{tmp_path}/x-{{07,02}}.tar")) == [7, 2]
    both = opened(tmp_path / "x-{00..09}.tar", test=str(tmp_path / "x-1?.tar"))
    assert reds(both) == list(range(12))
    for split, expected in [("train", list(range(10))), ("test", [10, 11])]:
        part = opened(tmp_path / "x-{00..09}.tar", split, test=str(tmp_path / "x-1?.tar"))
        assert reds(part) == expected
    held = [reds(opened(tmp_path / "x-*.tar", split)) for split in ("train", "test")]
    assert sorted(held[0] + held[1]) == list(range(12))
    assert len(held[1]) == 1
    with pytest.raises(
        ConfigError, match=r"x-02\.tar: expected different tars, found this one twice"
    ):
        opened(f"{tmp_path}/x-{{02,02}}.tar")
    with pytest.raises(InputError, match="expected tars, found none"):
        opened(tmp_path / "y-*.tar")


def test_identity_depends_on_what_not_on_where(tmp_path):
    (tmp_path / "other").mkdir()
    here, there = (write_tar(p / "a.tar", SAMPLES) for p in (tmp_path, tmp_path / "other"))
    assert opened(here).identity() == opened(there).identity()
    relabelled = write_tar(tmp_path / "other" / "a.tar", {**SAMPLES, "b/1.cls": b"2"})
    assert opened(here).identity() != opened(relabelled).identity()


def test_tars_on_a_server_are_read_as_local_ones(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    path = write_tar(tmp_path / "a.tar", SAMPLES)
    fsspec.filesystem("memory").pipe("/set/a.tar", path.read_bytes())
    remote = opened("memory://set/a.tar")
    assert torch.equal(remote.read([0, 2]).images, opened(path).read([0, 2]).images)
    assert remote.identity() == opened(path).identity()


@pytest.mark.parametrize("pattern", ["pipe:cat a.tar", "file:///a.tar", "ssh://host/a.tar"])
def test_commands_and_unknown_protocols_are_refused(pattern):
    with pytest.raises(ConfigError, match="commands are not run"):
        expand_shards(pattern)


def test_without_its_http_library_a_url_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.implementations.http", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "http", raising=False)
    with pytest.raises(ResourceError, match=r'a\.tar: .*pip install "imagetok\[data\]"'):
        opened("http://127.0.0.1:9/a.tar")


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="expected balanced braces"):
        expand_shards("photos-{000..099.tar")
    for pattern in ("{0..9999999999}.tar", "{0..9999}-{0..999}.tar"):
        with pytest.raises(ConfigError, match="at most 1,000,000 tars, found more"):
            expand_shards(pattern)


def test_several_images_a_sample_need_a_choice(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"1.left.png": picture(1), "1.right.png": picture(2)})
    with pytest.raises(
        ConfigError, match=r"one image per sample, found left\.png, right\.png .*; choose"
    ):
        opened(path)
    assert reds(opened(path, image="right.png")) == [2]


@pytest.mark.parametrize(
    "members, expected",
    [
        ({"a.1.png": b"", "a.1.cls": b"3", "b.22.png": b"", "b.22.cls": b"4"}, [3, 4]),
        ({"a.1.png": b"", "a.cls": b"3", "b.x.y.png": b"", "b.x.y.cls": b"4"}, [3, 4]),
        ({"a.png": b"", "a.png.cls": b"3", "b.PNG": b"", "b.CLS": b"4"}, [3, 4]),
        ({"a.png": b"", "a.json": b'{"label": 3}', "b.png": b"", "b.json": b"{}"}, [3, -1]),
        ({"a.png": b"", "a.json": b'{"class": 1, "cls": 2}'}, [1]),
        ({"a.png": b"", "a.json": b'{"class": 1, "label": 2}', "a.cls": b"3"}, [3]),
        (
            {"a.1.png": b"", "a.1.json": b'{"cls": "2"}', "b.png": b"", "b.png.json": b"[1]"},
            [2, -1],
        ),
        ({"a.png": b"", "a.txt": b"a cat", "a.meta.json": b"no JSON"}, [-1]),
        ({"a.png": b"", "a.json": b'{"label": null, "caption": "a cat"}'}, [-1]),
        (
            {
                "a.png": b"",
                "a.json": b'{"label": "cat"}',
                "b.png": b"",
                "b.json": b'{"label": "ant"}',
            },
            [1, 0],
        ),
    ],
)
def test_labels_are_found_by_the_name_of_the_image(tmp_path, members, expected):
    path = write_tar(
        tmp_path / "a.tar",
        {name: data or picture(1) for name, data in members.items()},
    )
    assert opened(path).labels == expected
    assert set(opened(path, label="").labels) == {NO_LABEL}


def test_labels_of_json_members_can_be_asked_for(tmp_path):
    members = {"a.png": picture(1), "a.cls": b"7", "a.json": b'{"label": 2}'}
    assert opened(write_tar(tmp_path / "a.tar", members), label="json").labels == [2]
    without = write_tar(tmp_path / "b.tar", {"a.png": picture(1), "a.json": b'{"text": "2"}'})
    with pytest.raises(ConfigError, match="labels in members that end in 'json', found none"):
        opened(without, label="json")


def test_what_looks_like_an_image_is_one_unless_another_is_read(tmp_path):
    unread = b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"
    members = {"1.nef": unread, "1.jpg": picture(1), "2.cr3": unread, "2.cls": b"4", "3.txt": b""}
    dataset = opened(write_tar(tmp_path / "a.tar", members))
    assert [Path(dataset.path_of(i)).name for i in range(len(dataset))] == ["1.jpg", "2.cr3"]
    with pytest.raises(ImageError, match="found a raw photo of a camera") as caught:
        dataset.read([1])
    assert caught.value.reason == "unsupported_format"


@pytest.mark.parametrize(
    "members, message",
    [
        (
            {"a.1.png": picture(1), "a.2.cls": b"3"},
            r"label of 'a\.1\.png' under its name, found 'a\.2",
        ),
        ({"a.png": picture(1), "a.json": b"{"}, r"'a\.json': expected JSON, found another text"),
        ({"a.png": picture(1), "a.json": b'{"cls": [1]}'}, r"'a\.json': 'cls': expected a label"),
        ({"a.png": picture(1), "a.json": b'{"cls": true}'}, r"'cls': expected a label, a number"),
        ({"a.png": picture(1), "a.json": b" " * (1 << 21)}, "at most 1,048,576 bytes"),
        ({"1.cls": b"3"}, r"expected an image for label '1\.cls', found none"),
        ({"1.png": picture(1), "1.PNG": picture(1)}, r"found '1\.PNG' twice"),
        ({"/etc/1.png": picture(1)}, "expected a relative name without"),
        ({"../1.png": picture(1)}, "expected a relative name without"),
        ({"1.png": picture(1), "1.cls": b"\xff"}, "expected a label of at most 4,096 bytes"),
        ({"1.txt": b""}, "expected images in split 'all', found none"),
    ],
)
def test_wrong_members_are_refused(tmp_path, members, message):
    with pytest.raises(InputError, match=message):
        opened(write_tar(tmp_path / "a.tar", members))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("1.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(InputError, match="expected a regular file, found a link or device"):
        opened(tmp_path / "a.tar")


def test_a_cut_tar_is_refused_wherever_it_is_cut(tmp_path):
    members = {
        f"{i}.{end}": data for i in range(3) for end, data in [("png", picture(i)), ("cls", b"1")]
    }
    data = write_tar(tmp_path / "a.tar", members, format=tarfile.USTAR_FORMAT).read_bytes()
    content = len(data.rstrip(b"\0"))
    content += -content % 512
    assert len(opened(tmp_path / "a.tar")) == 3
    for length in [*range(0, content + 512, 512), *range(0, content, 97)]:
        (tmp_path / "a.tar").write_bytes(data[:length])
        with pytest.raises(InputError, match=r"a\.tar: "):
            opened(tmp_path / "a.tar")


def test_a_damaged_header_is_no_end(tmp_path):
    data = bytearray(
        write_tar(tmp_path / "a.tar", SAMPLES, format=tarfile.USTAR_FORMAT).read_bytes()
    )
    second = 1024  # the headers of the second member are there
    data[second + 3] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match=r"damaged at byte 1,024"):
        opened(tmp_path / "a.tar")


def test_joined_and_compressed_tars_and_other_files_are_refused(tmp_path):
    data = write_tar(tmp_path / "a.tar", SAMPLES).read_bytes()
    for content, message in [
        (data + data, "more data follows the end"),
        (gzip.compress(data), "found a compressed one"),
        (picture(1) * 9, "not a tar, or damaged at byte 0"),
    ]:
        (tmp_path / "b.tar").write_bytes(content)
        with pytest.raises(InputError, match=message):
            opened(tmp_path / "b.tar")
    with pytest.raises(InputError, match=r"none\.tar: cannot be read: No such file"):
        opened(tmp_path / "none.tar")


def test_a_damaged_image_is_named_by_tar_and_member(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"1.png": picture(1), "2.png": picture(2)[:60]})
    dataset = opened(path)
    with pytest.raises(ImageError) as caught:
        dataset.read([0, 1])
    assert (caught.value.path, caught.value.reason) == (f"{path}/2.png", "truncated")


def test_webdatasets_own_writer_is_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(5):
            writer.write({"__key__": f"{number:06d}", "png": picture(number), "cls": number % 2})
    dataset = opened(tmp_path / "a.tar")
    assert reds(dataset) == list(range(5))
    assert dataset.read(range(5)).labels.tolist() == [0, 1, 0, 1, 0]


def test_extended_headers_without_form_are_refused():
    nines, square = b"9" * 5000, "\u00b2".encode()
    sizes = [b"%d size=%s\n" % (len(v) + 7 + len(str(len(v) + 8)), v) for v in (nines, square)]
    forms = [b"0 a=b\nXX", b" a=b\nX", b"2 a=b\n", b"99 a=b\n"]
    for content in forms + sizes:
        info = tarfile.TarInfo("x")
        info.type, info.size = tarfile.XHDTYPE, len(content)
        header = info.tobuf(tarfile.USTAR_FORMAT)
        data = header + content + bytes(-len(content) % 512 + 1024)
        with pytest.raises(InputError, match=r"a\.tar: damaged \((an extended|a size)"):
            list(tar_members(io.BytesIO(data), "a.tar"))


def test_faults_of_a_server_are_not_the_images(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    with pytest.raises(ResourceError, match=r"gone\.tar: cannot be downloaded"):
        opened("memory://faults/gone.tar")
    data = write_tar(tmp_path / "a.tar", SAMPLES).read_bytes()
    memory.pipe("/faults/a.tar", data)
    dataset = opened("memory://faults/a.tar")
    memory.rm("/faults/a.tar")
    with pytest.raises(ResourceError, match=r"a\.tar: cannot be downloaded"):
        dataset.read([0])
    memory.pipe("/faults/a.tar", data[:1030])
    with pytest.raises(InputError, match=r"a\.tar: .* truncated"):
        opened("memory://faults/a.tar")


def test_the_ending_of_labels_has_no_case_and_must_occur(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"1.png": picture(1), "1.Class": b"2"})
    assert opened(path, label="CLASS").read([0]).labels.tolist() == [2]
    assert opened(path).num_classes is opened(path, label="").num_classes is None
    with pytest.raises(ConfigError, match="labels in members that end in 'klass', found none"):
        opened(path, label="klass")


def test_a_name_that_is_no_utf8_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"1\udcff.png": picture(1)}, format=tarfile.GNU_FORMAT)
    with pytest.raises(InputError, match=r"udcff\.png': expected a file name in UTF-8"):
        opened(path).identity()
