"""The same images from a folder, a table and tars give the same bytes of codes."""

import csv
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from cli.main import _run
from imagetok import seeding
from imagetok.codes.encode import encode_dataset, make_plan
from imagetok.config import validate
from imagetok.data import open_images, parse_spec
from imagetok.durable import sha256_file
from imagetok.images import to_unit_range
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer


@pytest.fixture(scope="module")
def colour_tokenizer() -> Tokenizer:
    """Colour images of 16 x 16 to 2 x 2 codes; its codebook is what it says of random images."""
    config = validate(
        {
            "image": {"mode": "rgb", "height": 16, "width": 16},
            "network": {"kind": "conv", "width": 16, "groups": 3, "blocks": 1, "init": "torch"},
            "quantizer": {"kind": "vqvae-ema", "num_codes": 32, "code_dim": 4},
        },
        TokenizerConfig,
        "test",
    )
    with torch.random.fork_rng(devices=[]):
        seeding.reseed_global(0, "test")
        tokenizer = build_tokenizer(config).requires_grad_(False).eval()
    flat = torch.rand(32, 3, 1, 1, generator=seeding.generator(1)).expand(-1, -1, 16, 16)
    tokenizer.quantizer.codebook.copy_(tokenizer.encoder(flat - 0.5)[:, :, 0, 0])
    return tokenizer


def made_files(count: int = 90) -> dict[str, bytes]:
    """JPEG and PNG files of three classes, a third of them grey."""
    files = {}
    for number in range(count):
        shape = (3, 9 + number % 5, 11, 1 if number % 3 == 0 else 3)
        noise = torch.randint(0, 256, shape[1:], generator=seeding.generator(number))
        image = Image.fromarray(noise.to(torch.uint8).numpy().squeeze())
        file = io.BytesIO()
        image.save(file, "JPEG" if number % 2 else "PNG")
        kind = "jpg" if number % 2 else "png"
        files[f"{'abc'[number * 3 // count]}/{number:03d}.{kind}"] = file.getvalue()
    return files


def tiny_imagenet(is_whole: bool) -> dict[str, bytes]:
    """All images of the archive, or a fifth of its val/ with all its grey ones."""
    folder = os.environ.get("IMAGETOK_TEST_DATA")
    if not folder:
        pytest.skip("set IMAGETOK_TEST_DATA to a folder of real images to run this")
    archive = Path(folder) / "tiny-imagenet-subset" / "tiny-imagenet-20class.zip"
    if not archive.is_file():
        pytest.skip("IMAGETOK_TEST_DATA has no tiny-imagenet-subset/")
    with zipfile.ZipFile(archive) as packed:
        names = sorted(name for name in packed.namelist() if name.endswith(".JPEG"))
        if is_whole:  # train and val in one folder a class
            return {name.split("/", 1)[1]: packed.read(name) for name in names}
        val = {n.split("/", 1)[1]: packed.read(n) for n in names if n.startswith("val/")}
    grey = {n for n, data in val.items() if Image.open(io.BytesIO(data)).mode == "L"}
    assert grey
    return {n: data for i, (n, data) in enumerate(val.items()) if i % 5 == 0 or n in grey}


def lay_out(files: dict[str, bytes], root: Path) -> dict[str, str]:
    """The same files as a folder, a table and two tars; the spec of each."""
    files = dict(sorted(files.items()))
    for name, data in files.items():
        path = root / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with (root / "photos.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label"])
        writer.writerows((name, name.split("/")[0]) for name in files)
    for part, names in enumerate([list(files)[: len(files) // 2], list(files)[len(files) // 2 :]]):
        with tarfile.open(root / f"photos-{part}.tar", "w") as tar:
            for name in names:
                label = name.split("/")[0].encode()
                for member, data in [(name, files[name]), (Path(name).with_suffix(".cls"), label)]:
                    info = tarfile.TarInfo(str(member))
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return {
        "folder": str(root / "photos"),
        "table": f"table:all,file={root}/photos.csv,root={root}/photos",
        "tars": f"webdataset:all,shards={root}/photos-{{0..1}}.tar",
    }


def check_sources(files: dict[str, bytes], tokenizer: Tokenizer, root: Path) -> None:
    shards, labels = {}, set()
    for kind, spec in lay_out(files, root).items():
        config, split = parse_spec(spec)
        dataset = open_images(config, split, tokenizer.image)
        assert len(dataset) == len(files)
        assert len(dataset.class_names) == len({name.split("/")[0] for name in files})
        plan = make_plan(tokenizer, dataset, source=spec, name="tiny", samples_per_shard=4096)
        report = encode_dataset(tokenizer, dataset, root / kind, plan)
        assert (report.inputs, report.written) == (len(files), len(files))
        assert report.usage[0].codes_used > 3
        shards[kind] = [sha256_file(path) for path in sorted((root / kind).glob("*.tar"))]
        labels.add(dataset.class_names)
    assert shards["folder"] == shards["table"] == shards["tars"]
    assert len(labels) == 1


def test_made_images_give_the_same_codes_from_every_source(colour_tokenizer, tmp_path):
    check_sources(made_files(), colour_tokenizer, tmp_path)


def test_real_images_give_the_same_codes_from_every_source(colour_tokenizer, tmp_path):
    check_sources(tiny_imagenet(is_whole=False), colour_tokenizer, tmp_path)


@pytest.mark.slow
def test_all_real_images_give_the_same_codes_from_every_source(colour_tokenizer, tmp_path):
    files = tiny_imagenet(is_whole=True)
    assert len(files) == 11_000
    grey = sum(Image.open(io.BytesIO(data)).mode == "L" for data in files.values())
    assert grey == 146
    check_sources(files, colour_tokenizer, tmp_path)


def test_codes_are_those_of_the_images_in_order(colour_tokenizer, tmp_path):
    """What the comparisons above rest on: they are not all equal because all are empty."""
    specs = lay_out(made_files(12), tmp_path)
    images = [
        open_images(*parse_spec(spec), colour_tokenizer.image).read(range(12)).images
        for spec in specs.values()
    ]
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2])
    assert len({image.numpy().tobytes() for image in images[0]}) == 12
    assert len(colour_tokenizer.encode(to_unit_range(images[0]))[0].unique()) > 2


def test_limit_dry_run_and_skips_on_the_command_line(colour_tokenizer, tmp_path, capsys):
    colour_tokenizer.save_pretrained(tmp_path / "tokenizer")
    files = made_files(6)
    files["b/002.png"] = files["b/002.png"][:60]
    files["c/004.png"] = b"<html>"
    lay_out(files, tmp_path)
    words = ["encode", "--tokenizer", str(tmp_path / "tokenizer"), "--shards"]
    for spec in ("photos", "photos.csv", "photos-*.tar"):
        data = ["--data", str(tmp_path / spec)]
        if spec == "photos.csv":
            data[1] = f"table,file={tmp_path}/photos.csv,root={tmp_path}/photos"
        dry = [*words, str(tmp_path / "none"), *data, "--limit", "2", "--dry-run"]
        assert _run(dry) == 0
        assert "2 images -> 1 shard," in capsys.readouterr().out
        out = str(tmp_path / f"codes-{len(spec)}")
        assert _run([*words, out, *data, "--max-skip", "1"]) == 3
        assert _run([*words, out, *data, "--max-skip", "34%"]) == 4
        said = capsys.readouterr().out
        assert "b/002.png: truncated" in said and "c/004.png: not_image" in said
        assert "skipped 1 of 6: truncated\n" in said
        assert said.endswith("inputs 6 == written 4 + skipped 2\n")
    assert not (tmp_path / "none").exists()
