"""A VAE on the command line: trained, compared, measured and shown; and refused where codes are
asked for.
"""

import json
from pathlib import Path

import pytest

from cli.main import _run

DIGITS = Path(__file__).parents[2] / "configs" / "digits"
DASH = "\N{EN DASH}"


@pytest.fixture
def vae(whole) -> str:
    return str(whole / "b" / "seed-5" / "tokenizer")


def test_its_row_has_a_dash_for_every_measure_of_codes(whole):
    header, _, edvae, vae = (whole / "comparison.md").read_text().splitlines()[:4]
    rows = (header, vae, edvae)
    columns = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]
    empty = {title for title, found, other in zip(*columns, strict=True) if found == DASH}
    assert empty == {
        "perplexity, batches of 128", "perplexity, batches of 32", "perplexity, test set",
        "codes used", "dead codes", "bits per image, log2 K", "bits per image, order-0 entropy",
        "images/s, encoding",
    }  # fmt: skip
    assert DASH not in columns[2]
    method = json.loads((whole / "comparison.json").read_bytes())["methods"][1]
    assert method["num_codes"] == method["grids"] == []
    assert {"mse", "psnr_db", "ssim", "num_images"} == method["mean"].keys()
    assert method["cells"][0]["fingerprint"] and method["train_images_per_second"] > 0


def test_it_is_measured_verified_and_shown(vae, tmp_path, capsys):
    assert _run(["evaluate", "--tokenizer", vae, "--data", "digits:test"]) == 0
    assert "psnr_db" in (told := capsys.readouterr().out) and "perplexity" not in told
    assert _run(["verify", vae]) == 0 and _run(["inspect", vae, "--json"]) == 0
    assert '"kind": "autoencoder"' in capsys.readouterr().out
    picture = str(Path(vae).parents[2] / "reconstructions.png")
    assert _run(["reconstruct", picture, "--tokenizer", vae, "--out", str(tmp_path / "a.png")]) == 0


def test_where_codes_are_asked_for_it_says_what_to_use(vae, tmp_path, capsys):
    shards = ["--shards", str(tmp_path / "codes")]
    words = ["encode", "--tokenizer", vae, "--data", "digits:test", *shards]
    prior = ["train", str(DIGITS / "gpt.yaml"), "--set", f"tokenizer={vae}"]
    for command in (words, [*prior, "--out", str(tmp_path / "prior")]):
        assert _run(command) == 3
        told = capsys.readouterr().err
        assert "expected a tokenizer, found a continuous autoencoder" in told
        assert "configs/digits/edvae.yaml" in told and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []
