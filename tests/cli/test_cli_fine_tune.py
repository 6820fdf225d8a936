"""`imagetok train --train decoder`: what it writes, and what other commands say of it."""

import json

from cli.main import _run

SETS = ["tokenizer.network.width=8", "train.batch_size=8", "train.trackers=[]", "train.steps=2"]
TINY = ["digits/vqvae-ema", *(word for text in SETS for word in ("--set", text)), "--check", "off"]


def test_a_decoder_alone_is_trained_shown_and_verified(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert _run(["train", *TINY, "--out", str(first)]) == 0
    fine = ["train", *TINY, "--out", str(second), "--train", "decoder"]
    assert _run(fine) == 2
    assert "expected --init-from" in capsys.readouterr().err
    fine += ["--init-from", str(first / "tokenizer")]
    assert _run([*fine, "--dry-run"]) == 0
    assert "its decoder alone" in capsys.readouterr().out and not second.exists()
    capsys.readouterr()
    assert _run(fine) == 0
    out, err = capsys.readouterr()
    told = [line for line in out.splitlines() if line.startswith("next: ")]
    assert [line.split()[2] for line in told] == ["decode", "sample"]
    assert "the codebook is" not in out + err
    assert _run([*fine, "--resume"]) == 0
    assert "trained: decoder" in (second / "config.yaml").read_text()
    capsys.readouterr()
    described = []
    for run in (first, second):
        assert _run(["inspect", str(run / "tokenizer"), "--json"]) == 0
        described.append(json.loads(capsys.readouterr().out))
    assert described[1]["codes_fingerprint"] == described[0]["fingerprint"]
    assert _run(["verify", str(second / "tokenizer")]) == 0
    assert "Its codes are those of the tokenizer" in capsys.readouterr().out


def test_a_prior_has_no_decoder_to_train(capsys):
    assert _run(["train", "digits/gpt", "--train", "decoder"]) == 2
    assert "--train: applies to tokenizers" in capsys.readouterr().err
