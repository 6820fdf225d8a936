"""Each command that may meet a prior, and its function: the same input, the same files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import HubServer
from PIL import Image
from sampling_parts import make_prior_folder

import imagetok
import prior
from cli.main import _run
from imagetok.durable import write_json
from imagetok.errors import ConfigError, InputError, ShardError
from imagetok.images import to_uint8
from prior.sample_folder import SamplesRecord

DRAWING = {"label": ["b", "a"], "temperature": 0.7, "top_k": 5, "seed": 3}
WORDS = ["--label", "b,a", "--temperature", "0.7", "--top-k", "5", "--seed", "3"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return make_prior_folder(tmp_path_factory.mktemp("priors"))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / f"{name}.png" for name in ("one", "two")]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (6, 6), dtype=np.uint8)).save(path)
    return paths


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run(*words: object) -> int:
    return _run(list(map(str, words)))


def test_generate_writes_what_sample_writes(source, tmp_path, capsys):
    assert run("sample", "--prior", source, "-n", 5, "--out", tmp_path / "a", *WORDS) == 0
    made = prior.generate(source, 5, out=tmp_path / "b", **DRAWING)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert made.num_new == 5 and made.labels == [1, 0, 1, 0, 1]
    more = prior.generate(source, 6, out=tmp_path / "b", progress=False, **DRAWING)
    assert more.num_new == 1 and len(more.images) == 6
    again = prior.generate(source, 6, out=tmp_path / "b", **DRAWING)
    assert again.num_new == 0 and again.codes is None and len(again.images) == 6


@pytest.mark.parametrize("batch_size", [None, 2])
def test_what_stays_in_memory_is_what_is_written(source, tmp_path, batch_size):
    model = prior.Prior.from_pretrained(source)
    free = prior.generate(model, 5, batch_size=batch_size, **DRAWING)
    written = prior.generate(model, 5, out=tmp_path / "out", **DRAWING)
    assert free.folder is None and free.images.shape == (5, 1, 6, 6)
    assert torch.equal(to_uint8(free.images), to_uint8(written.images))
    for result in (free, written):
        assert result.codes is not None
        assert torch.equal(result.codes[0], model.sample(5, **DRAWING)[0])
    (picture,) = free.pictures().values()
    assert picture.shape == (3 * 8 + 2, 2 * 8 + 2) and "data:image/png" in free._repr_html_()
    assert "5 images of a prior, in memory" in repr(free) and "temperature" in repr(free)


def test_generate_codes_writes_what_sample_shards_writes(source, tmp_path):
    words = ["--samples-per-shard", 2, *WORDS]
    assert run("sample", "--prior", source, "-n", 5, "--shards", tmp_path / "a", *words) == 0
    made = prior.generate_codes(source, 5, tmp_path / "b", samples_per_shard=2, **DRAWING)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert len(made.dataset) == 5 and "codes used" in repr(made)


def test_complete_writes_what_the_command_writes(source, files, tmp_path):
    images = [word for file in files for word in ("--image", file)]
    how = ["--keep-rows", 2, "-n", 3, *WORDS]
    assert run("complete", "--prior", source, *images, "--out", tmp_path / "a", *how) == 0
    done = prior.complete(source, files, keep_rows=2, n=3, out=tmp_path / "b", **DRAWING)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert done.images.shape == (2, 3, 1, 6, 6) and done.log_prob.shape == (2, 4)
    assert "3 completions of 2 image(s)" in repr(done) and len(done.pictures()) == 2


def test_images_of_every_form_are_completed_alike(source, files):
    pictures = [Image.open(file) for file in files]
    pixels = np.stack([np.array(picture) for picture in pictures])[:, None]
    forms: list[object] = [files, [str(file) for file in files], pictures, pixels]
    forms.append(torch.from_numpy(pixels) / 255)
    found = [prior.complete(source, form, keep_rows=1, n=2, seed=1).images for form in forms]
    assert all(torch.equal(found[0], other) for other in found)
    one = prior.complete(source, files[1], keep_rows=1, n=2, seed=1).images
    assert torch.equal(one[0], found[0][1])
    for empty in ([], ()):
        with pytest.raises(InputError):
            prior.complete(source, empty, keep_rows=1)
    with pytest.raises(InputError, match="found both"):
        prior.complete(source, [files[0], pictures[1]], keep_rows=1)


@pytest.mark.parametrize("function", ["generate", "complete"])
def test_a_tokenizer_of_other_codes_is_refused(source, files, tmp_path, function):
    other = make_prior_folder(tmp_path, seed=1).parent / "own"
    with pytest.raises(ShardError, match="belongs to tokenizer"):
        if function == "generate":
            prior.generate(source, 2, tokenizer=other)
        else:
            prior.complete(source, files, keep_rows=1, tokenizer=other)


def test_older_samples_json_is_read_and_extended(source, tmp_path):
    """As versions before SamplingParams wrote it, key by key."""
    made = prior.generate(source, 2, out=tmp_path / "out", seed=4)
    stored = json.loads((tmp_path / "out" / "samples.json").read_bytes())
    assert stored.pop("class_names") == ["a", "b", "c"]
    assert stored == {
        "prior": made.record.prior,
        "origin": str(source),
        "tokenizer": made.record.tokenizer,
        "num_images": 2,
        "labels": [0, 1, 2],
        "temperature": 1.0,
        "top_k": None,
        "top_p": None,
        "greedy": False,
        "guidance": 1.0,
        "seed": 4,
    }
    write_json(tmp_path / "out" / "samples.json", stored)
    assert prior.generate(source, 4, out=tmp_path / "out", seed=4).num_new == 2
    with pytest.raises(ConfigError, match="seed"):
        prior.generate(source, 4, out=tmp_path / "out", seed=5)
    assert SamplesRecord.model_validate(stored).params() == prior.SamplingParams(seed=4)


def test_verify_and_inspect_say_what_the_commands_print(source, tmp_path, capsys):
    assert run("verify", source) == 0
    assert prior.verify(source).is_good and prior.inspect(source).kind == "prior"
    assert run("inspect", source, "--json") == 0
    printed = json.loads(capsys.readouterr().out.partition("good\n")[2])
    assert printed == json.loads(json.dumps(prior.inspect(source).content))
    assert imagetok.verify(source / "tokenizer").is_good
    with pytest.raises(InputError, match=r"is a prior; use `prior\.verify`"):
        imagetok.verify(source)
    shutil.copytree(source, tmp_path / "copy")
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert run("verify", tmp_path / "copy") == 4
    (line,) = capsys.readouterr().out.splitlines()
    found = prior.verify(tmp_path / "copy")
    assert line == f"damaged: {found.faults[0]}" and "fault 1" in repr(found)


def test_push_pushes_what_the_command_pushes(hub: HubServer, source, fresh_cache: Callable):
    assert run("push", source, "ann/one") == 0
    pushed = prior.push(source, "ann/two")
    one, two = (hub.repos[name].head("main") for name in ("ann/one", "ann/two"))
    assert (
        one.keys() == two.keys() and pushed.origin == f"ann/two@{hub.repos['ann/two'].refs['main']}"
    )
    assert pushed.kind == "prior" and pushed.url in repr(pushed)
    with pytest.raises(InputError, match="is a prior"):
        imagetok.push(source, "ann/three")
