"""Measures on the command line: of reconstructions, of samples, side by side, and refusals."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from browser import check_layout
from PIL import Image
from safetensors.torch import save_file

from cli.main import _run
from imagetok import seeding
from imagetok.analysis.uncertainty import UncertaintyStudy
from imagetok.config import load_config
from imagetok.data import ShapesConfig, open_images
from imagetok.evaluation.cifar_resnet import CIFARResNet
from imagetok.evaluation.records import read_record
from imagetok.images import from_stored
from imagetok.tokenizers import Tokenizer, build_tokenizer
from imagetok.training.config import TokenizerRun

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tokenizer, a feature network, twenty coloured pictures and the same pictures as samples."""
    folder = tmp_path_factory.mktemp("evaluate")
    seeding.reseed_global(0)
    config = load_config(CONFIGS / "shapes" / "edvae.yaml", TokenizerRun)
    network = config.tokenizer.network.model_copy(update={"width": 8})
    tokenizer = build_tokenizer(config.tokenizer.model_copy(update={"network": network}))
    tokenizer.eval().save_pretrained(folder / "tokenizer")
    save_file(CIFARResNet(1).state_dict(), folder / "features.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    for name in ("photos", "samples"):
        (folder / name).mkdir()
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(folder / name / f"{i:06d}.png")
    record = {"num_images": 20, "labels": list(range(10))}
    (folder / "samples" / "samples.json").write_text(json.dumps(record))
    Image.fromarray(pixels[0]).save(folder / "samples" / "grid.png")
    return folder


def evaluate(place: Path, *words: str) -> int:
    features = f"cifar-resnet={place / 'features.safetensors'}"
    data = f"folder:all,root={place / 'photos'}"
    tokenizer = str(place / "tokenizer")
    given = ["--tokenizer", tokenizer, "--data", data, "--features", features, "--device", "cpu"]
    return _run(["evaluate", *given, *words])


def one_coloured(place: Path, folder: Path, value: float) -> list[str]:
    """A tokenizer whose every reconstruction has this value, and one grey picture as its data."""
    tokenizer = Tokenizer.from_pretrained(place / "tokenizer")
    last = [m for m in tokenizer.decoder.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    last.weight.data.zero_()
    last.bias.data.fill_(value - 0.5)  # the model's own range
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "grey").mkdir()
    Image.new("RGB", (32, 32), (51, 51, 51)).save(folder / "grey" / "000000.png")
    return ["--tokenizer", str(folder / "tokenizer"), "--data", str(folder / "grey")]


def test_perfect_reconstructions_have_finite_measures(place, tmp_path):
    words = ["evaluate", *one_coloured(place, tmp_path, 51 / 255), "--out", str(tmp_path / "x")]
    assert _run(words) == 0
    record = json.loads((tmp_path / "x").read_bytes(), parse_constant=pytest.fail)
    assert record == read_record(tmp_path / "x")
    assert record["measures"]["mse"] == pytest.approx(0, abs=1e-12)
    assert record["measures"]["psnr_db"] == 100


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_decoder_that_gives_no_numbers_is_refused(value, place, tmp_path, capsys):
    words = ["evaluate", *one_coloured(place, tmp_path, value), "--out", str(tmp_path / "x")]
    assert _run(words) == 3
    assert f"expected finite measures, found mse is {value}" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_samples_that_are_the_images_are_at_no_distance(place, tmp_path):
    out = tmp_path / "x.json"
    assert evaluate(place, "--samples", str(place / "samples"), "--out", str(out)) == 0
    record = json.loads(out.read_bytes())
    measures = record["measures"]
    assert measures["num_samples"] == 20, "the grid is no sample"
    assert measures["frechet_cifar-resnet8"] == pytest.approx(0, abs=1e-6)
    assert measures["precision_cifar-resnet8"] == measures["recall_cifar-resnet8"] == 1
    assert "class_accuracy_cifar-resnet8" not in measures, "the photos have no classes"
    assert not any("fid" in name for name in measures)
    network = record["identity"]["networks"]["cifar-resnet8"]
    assert len(network["network_sha256"]) == 64
    assert record["identity"]["count"] == record["identity"]["data_count"] == 20


def test_samples_may_be_compared_with_a_part_of_the_images(place, tmp_path, capsys):
    out, samples = tmp_path / "x.json", ["--samples", str(place / "samples")]
    assert evaluate(place, *samples, "--reference-count", "12", "--out", str(out)) == 0
    identity = json.loads(out.read_bytes())["identity"]
    assert (identity["count"], identity["data_count"], identity["data_drawn_from"]) == (20, 12, 20)
    assert evaluate(place, *samples, "--beside", str(out)) == 2
    assert "data_count: 20, 12" in capsys.readouterr().err
    assert evaluate(place, *samples, "--reference-count", "21") == 2
    assert "expected 1 to 20, the images of folder:all, found 21" in capsys.readouterr().err
    assert evaluate(place, "--reference-count", "12") == 2
    assert "--reference-count: applies to samples" in capsys.readouterr().err


def test_reconstructions_of_an_untrained_tokenizer_are_far_from_their_images(place, tmp_path):
    assert evaluate(place, "--out", str(tmp_path)) == 2  # a folder
    out = tmp_path / "new" / "x.json"
    assert evaluate(place, "--out", str(out)) == 0
    measures = json.loads(out.read_bytes())["measures"]
    assert measures["mse"] > 0 and measures["rfrechet_cifar-resnet8"] > 1e-3
    assert 0 <= measures["class_agreement_cifar-resnet8"] <= 1


def test_lpips_is_measured_of_reconstructions_alone(place, tmp_path, capsys):
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = torchvision.models.alexnet().features.state_dict()
    state = {f"features.{k}": torch.randn(v.shape) / 30 for k, v in shapes.items()}
    save_file(state, tmp_path / "alex.safetensors")
    lpips, out = f"alex={tmp_path / 'alex.safetensors'}", tmp_path / "x.json"
    assert evaluate(place, "--lpips", lpips, "--out", str(out)) == 0
    record = json.loads(out.read_bytes())
    assert record["measures"]["lpips_alex_unchecked"] > 0
    assert len(record["identity"]["networks"]["lpips_alex_unchecked"]["network_sha256"]) == 64
    assert evaluate(place, "--samples", str(place / "samples"), "--lpips", lpips) == 2
    assert "--lpips: measures reconstructions only" in capsys.readouterr().err


def test_equal_identities_share_a_table_and_others_do_not(place, tmp_path, capsys):
    one, other = str(tmp_path / "one.json"), str(tmp_path / "other.json")
    assert evaluate(place, "--out", one) == 0
    assert evaluate(place, "--beside", one) == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if "this" in line)
    assert header.split() == ["this", one]
    content = json.loads(Path(one).read_bytes())
    content["identity"]["networks"]["cifar-resnet8"]["network_sha256"] = "0" * 64
    Path(other).write_text(json.dumps(content))
    assert evaluate(place, "--beside", other) == 2
    told = capsys.readouterr().err
    assert "are not comparable" in told and "cifar-resnet8.network_sha256" in told


def test_an_unfinished_folder_of_samples_is_refused(place, tmp_path, capsys):
    (tmp_path / "samples").mkdir()
    record = {"num_images": 3, "labels": [-1]}
    (tmp_path / "samples" / "samples.json").write_text(json.dumps(record))
    assert evaluate(place, "--samples", str(tmp_path / "samples")) == 3
    assert "expected 3 numbered images, found 0" in capsys.readouterr().err


def test_what_is_no_record_is_refused(place, tmp_path, capsys):
    (tmp_path / "x.json").write_text("[]")
    assert evaluate(place, "--beside", str(tmp_path / "x.json")) == 3
    assert "imagetok evaluate --out" in capsys.readouterr().err


def test_samples_need_a_network(place, capsys):
    words = ["evaluate", "--tokenizer", str(place / "tokenizer")]
    words += ["--data", str(place / "photos"), "--samples", str(place / "samples")]
    assert _run(words) == 2
    assert "add --features NETWORK" in capsys.readouterr().err


def test_a_codebook_is_diagnosed(place, tmp_path, capsys):
    data = f"folder:all,root={place / 'photos'}"
    words = ["--tokenizer", str(place / "tokenizer"), "--data", data, "--device", "cpu"]
    assert _run(["diagnose", *words, "--out", str(tmp_path)]) == 0
    assert "verdict: " in (told := capsys.readouterr().out) and "codes used" in told
    (level,) = json.loads((tmp_path / "diagnosis.json").read_bytes())["levels"]
    assert sum(level["counts"]) == 20 * 64 and level["state"] in told
    assert all(sentence in told for sentence in level["sentences"])
    assert level["sentences"][0] in (tmp_path / "report.html").read_text()
    check_layout(tmp_path / "report.html")


@pytest.mark.slow
def test_a_history_is_that_of_the_run_that_made_the_tokenizer(place, tmp_path, capsys):
    config, run = CONFIGS / "digits" / "edvae.yaml", tmp_path / "run"
    steps = [f"train.{key}=2" for key in ("steps", "evaluate_every", "log_every")]
    tiny = [*steps, "train.checkpoint_every=1", "train.ema_decay=0.5", "train.trackers=[]"]
    sets = [word for key in tiny for word in ("--set", key)]
    assert _run(["train", str(config), *sets, "--out", str(run), "--device", "cpu"]) == 0
    words = ["--data", "digits:test", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert _run(["diagnose", "--tokenizer", str(run / "tokenizer"), *words]) == 0
    assert "codes changed since step 1" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_bytes())
    assert found["identity"]["count"] == 180 and found["levels"][0]["codes_changed_since"]["1"] > 0
    shutil.copytree(place / "tokenizer", run / "another")  # in its folder, but not of it
    words[1] = "shapes:test,count=20"
    assert _run(["diagnose", "--tokenizer", str(run / "another"), *words]) == 0
    assert "since step" not in capsys.readouterr().out


def test_uncertainty_is_measured(place, tmp_path, capsys):
    data = f"folder:all,root={place / 'photos'}"
    tokenizer = ["--tokenizer", str(place / "tokenizer")]
    shutil.copytree(place / "tokenizer", tmp_path / "copy")
    other = ["--tokenizer", str(tmp_path / "copy")]
    words = [*tokenizer, *other, "--data", data, "--shifted", "shapes:test"]
    out = ["--limit", "12", "--out", str(tmp_path), "--device", "cpu"]
    assert _run(["uncertainty", *words, "--shifted", "noise", *out]) == 0
    told = capsys.readouterr().out
    one, other = json.loads((tmp_path / "uncertainty.json").read_bytes())["tokenizers"]
    origins = [study.pop("origin") for study in (one, other)]
    assert one == other and origins == [str(place / "tokenizer"), str(tmp_path / "copy")]
    measured = f"12 images of {data}, 12 images of shapes:test and 12 images of noise"
    assert "Spearman, positions" in told and measured in told
    assert {name: found["count"] for name, found in one["identities"].items()} == {
        data: 12, "shapes:test": 12, "noise": 12
    }  # fmt: skip
    assert one["auroc"].keys() == {"uncertainty", "entropy", "top_logit", "error"}
    assert all(0 <= v <= 1 for row in one["auroc"].values() for v in row.values())
    assert len(one["calibration"]["entropy"]["doubt"]) == 10
    page = (tmp_path / "report.html").read_text()
    check_layout(tmp_path / "report.html")
    assert (
        "minus the largest logit" in page and "highest mean uncertainty among the first 12." in page
    )
    assert _run(["uncertainty", *tokenizer, *tokenizer, "--data", data]) == 2
    assert f"found {place / 'tokenizer'} twice" in capsys.readouterr().err
    assert _run(["uncertainty", *tokenizer, "--data", "noise"]) == 2
    assert "`noise` is only accepted by --shifted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("correlation", "words"),
    [
        (0.43, "minus the margin, level 1 rises with the error (0.43)"),
        (-0.43, "minus the margin, level 1 falls with the error (-0.43)"),
        (0.2, "minus the margin, level 1 is hardly correlated with the error (0.20)"),
        (None, "minus the margin, level 1 is undefined"),
    ],
)
def test_relation_of_uncertainty_and_error_in_words(correlation, words):
    found = {"margin_level1": {"positions": correlation, "images": 0.9}}
    study = UncertaintyStudy(
        "t", "0" * 64, "vqvae", "shapes:test", {"shapes:test": {"count": 2}}, found, {}, {}, (), {}
    )
    assert words in study.conclusion()


def test_the_space_of_codes_is_explored(place, tmp_path, capsys):
    data = ["--data", "shapes:test", "--limit", "20", "--device", "cpu"]
    features = f"cifar-resnet={place / 'features.safetensors'}"
    words = ["--tokenizer", str(place / "tokenizer"), *data, "--features", features]
    codes = [word for code in ("0", "0:1", "2", "3") for word in ("--code", code)]
    assert _run(["explore", *words, *codes, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    found = json.loads((tmp_path / "explore.json").read_bytes())
    names = ["reconstruction", *(f"neighbour-{2**i}" for i in range(5)), "interpolation"]
    assert found["distances"].keys() == set(names) and all(name in told for name in names)
    assert all("frechet_cifar-resnet8" in row for row in found["distances"].values())
    assert found["identity"]["count"] == 20
    shares = found["neighbour_accuracy"]
    assert shares.keys() == {"pixels", "code vectors", "most common label"}
    page = (tmp_path / "report.html").read_text()
    assert "t-SNE of the code vectors of 20 images" in page and "neighbour-16" in page
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert titles[:2] == ["Nearest codes", "Interpolation"] and titles[-1] == "Class structure"
    nearest, between = page.split("<h2>")[1:3]
    assert '<th scope="row"><div>interpolation' not in nearest
    assert '<th scope="row"><div>interpolation' in between
    check_layout(tmp_path / "report.html")
    model = Tokenizer.from_pretrained(place / "tokenizer")
    images = open_images(ShapesConfig(), "test", model.image).read(range(20)).images
    codes = model.encode(from_stored(images, model.image))[0]
    for code in range(4):
        assert f"Code {code}, {int((codes == code).sum()):,} uses in 20 images" in page
    beyond = str(model.num_codes[0])
    for wrong, told in [(beyond, "no such code"), ("1:0", "no such code"), ("x", "LEVEL:NUMBER")]:
        assert _run(["explore", *words, "--code", wrong, "--out", str(tmp_path)]) == 2
        assert told in capsys.readouterr().err
    assert _run(["explore", *words, "--out", str(tmp_path / "report.html")]) == 2
    assert "expected a folder, found a file" in capsys.readouterr().err
