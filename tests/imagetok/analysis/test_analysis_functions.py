"""Each command of analysis and its function, on the same input, write and say the same."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import imagetok
import prior
from cli.main import _run
from imagetok import seeding
from imagetok.config import load_config
from imagetok.data import ArrayImages
from imagetok.errors import ConfigError, ImagetokError, InputError
from imagetok.evaluation.cifar_resnet import CIFARResNet
from imagetok.images import pixels_text
from imagetok.results import Result
from imagetok.tokenizers import Tokenizer, build_tokenizer
from imagetok.training.config import TokenizerRun

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tokenizer that was trained for no step, a feature network, and pictures of two classes."""
    folder = tmp_path_factory.mktemp("functions")
    seeding.reseed_global(0)
    config = load_config(CONFIGS / "shapes" / "edvae.yaml", TokenizerRun)
    network = config.tokenizer.network.model_copy(update={"width": 8})
    tokenizer = build_tokenizer(config.tokenizer.model_copy(update={"network": network}))
    tokenizer.eval().save_pretrained(folder / "tokenizer")
    save_file(CIFARResNet(1).state_dict(), folder / "features.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 36, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        file = folder / "photos" / ("cat", "dog")[i % 2] / f"{i:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return folder


@pytest.fixture(scope="module")
def data(place) -> str:
    return f"folder:all,root={place / 'photos'}"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of a tiny tokenizer."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    tiny = ["network.width=8", "quantizer.num_codes=16"]
    sets = [f"tokenizer.{key}" for key in tiny]
    sets += [f"train.{key}=2" for key in ("steps", "evaluate_every", "log_every")]
    words = [word for key in [*sets, "train.trackers=[]"] for word in ("--set", key)]
    config = CONFIGS / "digits" / "edvae.yaml"
    assert _run(["train", str(config), *words, "--out", str(out), "--device", "cpu"]) == 0
    return out


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_same(
    out: Path, words: list[str], call: Callable[[Path], Result], name: str = ""
) -> Result:
    """Both write into `out` in turn, so that paths in what they write are equal, too."""
    out.mkdir(parents=True, exist_ok=True)
    assert _run([*words, "--out", str(out / name), "--device", "cpu"]) == 0
    by_command = files(out)
    for path in out.rglob("*"):
        if path.is_file():
            path.unlink()
    result = call(out / name)
    assert by_command and files(out) == by_command
    check_shown(result)
    return result


def check_shown(result: Result) -> None:
    """A title, numbers and pictures, as text and in a notebook."""
    assert result.title() in repr(result) and "<table>" in result._repr_html_()
    for pixels in result.pictures().values():
        assert pixels.dtype == np.uint8 and pixels.ndim in (2, 3)


def test_evaluate(place, data, tmp_path):
    tokenizer, features = place / "tokenizer", f"cifar-resnet={place / 'features.safetensors'}"
    words = ["evaluate", "--tokenizer", str(tokenizer), "--data", data, "--features", features]

    def call(out: Path) -> Result:
        return imagetok.evaluate(tokenizer, data, features=[features], out=out, device="cpu")

    found = check_same(tmp_path / "a", words, call, "x.json")
    record = json.loads((tmp_path / "a" / "x.json").read_bytes())
    assert found.record == record and found.measures["mse"] == record["measures"]["mse"]
    again = imagetok.evaluate(
        Tokenizer.from_pretrained(tokenizer),
        data,
        features=features,
        beside=tmp_path / "a" / "x.json",
        progress=False,
    )
    assert again.record == record
    assert again.table()["mse x 10^3"] == {
        name: 1e3 * record["measures"]["mse"] for name in ("this", str(tmp_path / "a" / "x.json"))
    }
    with pytest.raises(ConfigError, match="expected a file name, found a folder"):
        imagetok.evaluate(tokenizer, data, out=tmp_path)


def test_evaluate_of_samples_needs_no_prior(place, data, tmp_path):
    features = f"cifar-resnet={place / 'features.safetensors'}"
    (tmp_path / "drawn").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "drawn" / f"{i}.png")
    words = ["evaluate", "--tokenizer", str(place / "tokenizer"), "--data", data]
    words += ["--features", features, "--samples", str(tmp_path / "drawn")]

    def call(out: Path) -> Result:
        return imagetok.evaluate(
            str(place / "tokenizer"),
            data,
            samples=tmp_path / "drawn",
            features=features,
            out=out,
            device="cpu",
        )

    found = check_same(tmp_path / "a", words, call, "x.json")
    assert found.measures["num_samples"] == 8 and found.subject == str(tmp_path / "drawn")


@pytest.mark.slow
def test_diagnose(run, tmp_path):
    words = ["diagnose", "--tokenizer", str(run / "tokenizer"), "--data", "digits:test"]

    def call(out: Path) -> Result:
        return imagetok.diagnose(run / "tokenizer", "digits:test", out=out, device="cpu")

    found = check_same(tmp_path / "a", words, call)
    [level] = found.measures
    assert found.verdicts[0].state == level["state"] == found.rows()["verdict"]
    assert [r["step"] for r in found.history if r["split"] == "test"] == [2]
    assert len(found.pictures()) == 1
    measures = imagetok.evaluate(run / "tokenizer", "digits:test").measures
    for name in ("perplexity", "codes_used", "num_codes"):
        assert level[name] == measures[name], "one definition"
    assert level["perplexity_batch128"] == pytest.approx(measures["perplexity_batch128"])
    assert level["entropy"] == pytest.approx(measures["entropy"])
    with pytest.raises(ConfigError, match="expected a folder, found a file"):
        imagetok.diagnose(run / "tokenizer", "digits:test", out=tmp_path / "a" / "report.html")


def test_uncertainty(place, data, tmp_path):
    tokenizer = str(place / "tokenizer")
    words = ["uncertainty", "--tokenizer", tokenizer, "--data", data, "--shifted", "noise"]

    def call(out: Path) -> Result:
        shifted = ["noise"]
        return imagetok.uncertainty(
            tokenizer, data, shifted=shifted, limit=12, out=out, device="cpu"
        )

    found = check_same(tmp_path / "a", [*words, "--limit", "12"], call)
    [study] = found.studies
    assert study.identities["noise"]["count"] == 12 and "auroc" in study.measures
    assert "Spearman, positions" in str(found.rows())
    with pytest.raises(ConfigError, match="twice"):
        imagetok.uncertainty([tokenizer, Path(tokenizer)], data)
    same = Tokenizer.from_pretrained(tokenizer)
    with pytest.raises(ConfigError, match="twice"):
        imagetok.uncertainty([same, same], data)
    assert imagetok.uncertainty(same, data, shifted="noise", limit=12).record == found.record


@pytest.mark.slow
def test_explore(place, data, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    words = ["explore", "--tokenizer", str(place / "tokenizer"), "--data", data, "--code", "3"]

    def call(out: Path) -> Result:
        return imagetok.explore(
            place / "tokenizer", data, codes=[3], limit=20, out=out, device="cpu"
        )

    found = check_same(tmp_path / "a", [*words, "--limit", "20"], call)
    record = json.loads((tmp_path / "a" / "explore.json").read_bytes())
    assert found.record == record
    found = imagetok.explore(place / "tokenizer", data, codes=[(0, 3)])
    # A folder is sorted by class; pictures of all of it are shown.
    assert found.shown_labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    measures = found.measures
    whole = imagetok.evaluate(place / "tokenizer", data).measures
    assert measures["reconstruction"]["mse"] == whole["mse"], "one meaning of one name"


def test_reconstruct(place, tmp_path):
    paths = [place / "photos" / "cat" / "00.png", place / "photos" / "dog" / "01.png"]
    words = ["reconstruct", *map(str, paths), "--tokenizer", str(place / "tokenizer")]

    def call(out: Path) -> Result:
        return imagetok.reconstruct(place / "tokenizer", paths, out=out, device="cpu")

    found = check_same(tmp_path / "a", words, call, "x.png")
    with Image.open(tmp_path / "a" / "x.png") as stored:
        [picture] = found.pictures().values()
        assert (np.asarray(stored) == picture).all()
    opened = [Image.open(path) for path in paths]
    for images in (opened, [np.asarray(image) for image in opened], list(map(str, paths))):
        other = imagetok.reconstruct(Tokenizer.from_pretrained(place / "tokenizer"), images)
        assert torch.equal(other.reconstructions, found.reconstructions)
        assert other.measures == found.measures
    one = imagetok.reconstruct(place / "tokenizer", opened[0])
    assert one.names == ("image 0",) and one.originals.shape == (1, 3, 32, 32)
    with pytest.raises(InputError, match="at least one image"):
        imagetok.reconstruct(place / "tokenizer", [])


@pytest.mark.slow
def test_report(run, tmp_path):
    out = tmp_path / "a" / "r.html"

    def call(path: Path) -> Result:
        return imagetok.report(run, path, device="cpu")

    found = check_same(out.parent, ["report", str(run)], call, "r.html")
    made = prior.report([str(run)], str(out), device="cpu")
    assert made.contents == found.contents
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert found.measures["digits"]["mse"] == last["mse"] and found.history["digits"][-1] == last
    with pytest.raises(ConfigError, match="at least one run"):
        imagetok.report([], out)


def test_a_report_of_tokenizers_leaves_what_is_a_priors(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("kind: prior\n")
    with pytest.raises(ConfigError, match="expected 'tokenizer', found 'prior'"):
        imagetok.report(tmp_path / "run", tmp_path / "r.html")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "samples.json").write_text("{}")
    with pytest.raises(ImagetokError, match=r"prior\.report also accepts"):
        imagetok.report(tmp_path / "samples", tmp_path / "r.html")


def test_functions_take_images_in_memory_and_work_in_threads(place):
    tokenizer = Tokenizer.from_pretrained(place / "tokenizer")
    pixels = torch.randint(0, 256, (12, 3, 32, 32), generator=torch.manual_seed(0))
    images = ArrayImages(pixels.to(torch.uint8), name="mine", split="all", contract=tokenizer.image)
    found: list[Result] = []

    def work() -> None:
        found.append(imagetok.evaluate(tokenizer, images, progress=False))
        found.append(imagetok.diagnose(tokenizer, images, progress=False))
        found.append(imagetok.uncertainty(tokenizer, images, progress=False))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    size = pixels_text(tokenizer.image)
    assert [result.title().split(" on ")[-1] for result in found[:2]] == [
        f"mine:all, images of {size}",
        "mine:all",
    ]
    assert found[1].rows()["images"] == size
    assert len(found) == 3
