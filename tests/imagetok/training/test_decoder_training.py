"""Training a decoder alone: nothing that codes depend on changes, and the run is as any other."""

import json
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_graph import record_on_cpu
from representative import slow_but
from safetensors.torch import load_file, save_file
from test_adversary import SECTION, assert_equal
from test_processes import run as run_processes
from test_resume import start, tree, wait_for_step, write_config

from imagetok.config import validate
from imagetok.durable import seal_folder
from imagetok.errors import ArtifactError, CheckpointError, ConfigError, InputError
from imagetok.seeding import generator, reseed_global
from imagetok.tokenizers import Tokenizer, build_tokenizer
from imagetok.tokenizers.base import Part
from imagetok.training.config import TokenizerRun
from imagetok.training.tokenizer import train_tokenizer

WEIGHT = {"kind": "constant", "value": 0.25}
SIZES = {"num_codes": 8, "code_dim": 4}
RESET = {"kind": "random", "threshold": 5.0}
EDVAE = {"kind": "edvae", **SIZES}
VQ = {"kind": "vqvae", **SIZES, "init": "data", "reset": RESET}
EMA = {"kind": "vqvae-ema", **SIZES, "averages": "zeros", "init": "kmeans", "reset": RESET}
DROPOUT = {
    "kind": "conv", "width": 8, "groups": 2, "blocks": 1, "dropout": 0.1, "init": "torch",
    "residual_gain": 0.5,
}  # fmt: skip
BATCH_NORM = {"kind": "kaokore", "width": 8}
HIERARCHY = {"kind": "vqvae2", "width": 8, "residual_width": 4, "residual_layers": 1}
LOSSES = {"edvae": ["kl"], "vqvae": ["codebook", "commitment"], "vqvae-ema": ["commitment"]}
MODELS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "edvae": (DROPOUT, [EDVAE]),
    "sampled": (DROPOUT, [EDVAE | {"test_rule": "sample"}]),
    "vq": (BATCH_NORM, [VQ]),
    "ema": (BATCH_NORM, [EMA]),
    "hierarchy": (HIERARCHY, [EMA, VQ]),
}
BY_DEFAULT = ["edvae", "ema", "hierarchy"]
every_model = pytest.mark.parametrize("name", slow_but(BY_DEFAULT, MODELS))


def config(name: str, *, adversary: bool = False, **train: object) -> TokenizerRun:
    """A tiny run of a model; with `trained="decoder"`, of its decoder alone."""
    top = {key: train.pop(key) for key in ("trained", "learning_rate_factors") if key in train}
    network, quantizers = MODELS[name]
    whole: dict[str, Any] = tree(**train) | top
    named = {"quantizer": quantizers[0]} if len(quantizers) == 1 else {"quantizers": quantizers}
    whole["tokenizer"] = {"image": whole["tokenizer"]["image"], "network": network, **named}
    whole["tokenizer"]["likelihood"] = {"kind": "gaussian"}
    losses = [
        loss if len(quantizers) == 1 else f"{loss}_level{level}"
        for level, quantizer in enumerate(quantizers)
        for loss in LOSSES[quantizer["kind"]]
    ]
    whole["objective"]["weights"] = dict.fromkeys(losses, WEIGHT)
    whole["objective"]["adversarial"] = SECTION if adversary else None
    return validate(whole, TokenizerRun, "test")


def only_decoder(name: str, **keys: Any) -> TokenizerRun:
    return config(name, trained="decoder", **keys)


Source = Callable[[str], Path]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    """source(name): the folder of a tokenizer that was trained for two steps."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            run = tmp_path_factory.mktemp("source")
            train_tokenizer(config(name, steps=2), run)
            made[name] = run / "tokenizer"
        return made[name]

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def everything(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, optimizers included."""
    folder, found = run / "checkpoints" / f"step-{step:08d}", {}
    for path in folder.glob("*.safetensors"):
        found |= {f"{path.stem}.{k}": v for k, v in load_file(path).items()}
    for path in folder.glob("optimizer*.bin"):
        state = torch.load(path, weights_only=True)["state"]
        found |= {f"{path.stem}.{i}.{k}": v for i, vs in state.items() for k, v in vs.items()}
    return found


def records(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@every_model
@pytest.mark.parametrize("ema_decay", [0.5, None])
def test_nothing_that_codes_depend_on_changes(tmp_path, source, name, ema_decay):
    train_tokenizer(
        only_decoder(name, steps=4, ema_decay=ema_decay), tmp_path, init_from=source(name)
    )
    before, after = weights(source(name)), weights(tmp_path / "tokenizer")
    model = Tokenizer.from_pretrained(tmp_path / "tokenizer")
    checkpoint = load_file(tmp_path / "checkpoints" / "step-00000004" / "model.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {model.part_of(key) for key in changed} == {"decoder"}
    assert {"likelihood.log_variance"} < changed
    assert {model.part_of(k) for k in before if not torch.equal(before[k], checkpoint[k])} == {
        "decoder"
    }
    learnt = {key for key, _ in model.named_parameters() if model.part_of(key) == "decoder"}
    optimizer = tmp_path / "checkpoints" / "step-00000004" / "optimizer.bin"
    assert len(torch.load(optimizer, weights_only=True)["state"]) == len(learnt)
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    codes = [
        tokenizer.encode(images, generator=generator(0, "test"))
        for tokenizer in (model, Tokenizer.from_pretrained(source(name)))
    ]
    for one, other in zip(*codes, strict=True):
        assert torch.equal(one, other)


@every_model
def test_the_decoder_learns_from_what_decode_gives_it(source, name):
    """With the decoder in eval mode, its output in training is that of encode and decode."""
    run, ancestor = only_decoder(name), Tokenizer.from_pretrained(source(name))
    model = build_tokenizer(run.tokenizer)
    model.load_state_dict(ancestor.state_dict())
    model.fix_codes(ancestor)
    model.train()
    for key, module in model.named_modules():
        assert key == "" or module.training == (model.part_of(f"{key}.weight") == "decoder")
    model.get_submodule(model.prefixes["decoder"][0]).eval()
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    out = model(images, generator=generator(0, "test"))
    codes = ancestor.encode(images, generator=generator(0, "test"))
    assert all(torch.equal(a, b) for a, b in zip(out.indices, codes, strict=True))
    torch.testing.assert_close(out.x_hat.clamp(0, 1), ancestor.decode(codes), rtol=0, atol=1e-6)
    assert out.losses.keys() == {"reconstruction"} and not out.stats
    out.losses["reconstruction"].backward()
    learnt = {key for key, p in model.named_parameters() if p.grad is not None}
    assert learnt == {key for key, p in model.named_parameters() if p.requires_grad}
    assert {model.part_of(key) for key in learnt} == {"decoder"}


def test_the_losses_of_the_quantizer_are_left_out(tmp_path, source):
    train_tokenizer(only_decoder("vq", steps=2), tmp_path, init_from=source("vq"))
    training = [record for record in records(tmp_path) if record["split"] == "train"]
    assert not {"codebook", "commitment"} & training[-1].keys()


@every_model
@pytest.mark.parametrize("adversary", slow_but([True], [True, False]))
def test_a_run_resumes_bit_identically(tmp_path, source, name, adversary):
    """With micro-batches, dropout or batch norm, a moving average, data starts and resets."""
    make = partial(only_decoder, name, adversary=adversary)
    for run, stops in (("whole", [4]), ("halves", [2, 4])):
        for stop in stops:
            train_tokenizer(make(steps=stop), tmp_path / run, init_from=source(name), resume=True)
    assert_equal(*(everything(tmp_path / run, 4) for run in ("whole", "halves")))
    artifacts = [tmp_path / run / "tokenizer" for run in ("whole", "halves")]
    assert_equal(*map(weights, artifacts))
    assert len({(folder / "config.json").read_bytes() for folder in artifacts}) == 1


@pytest.mark.slow  # starts processes and kills them
@pytest.mark.parametrize("name", ["edvae", "ema"])
def test_a_run_that_is_killed_at_random_steps_ends_as_one_that_was_not(tmp_path, source, name):
    path = write_config(tmp_path, partial(only_decoder, name, adversary=True))
    more = ("--init-from", str(source(name)), "--train", "decoder")
    whole = start(path, tmp_path / "whole", *more)
    draw, killed = random.Random(0), start(path, tmp_path / "killed", *more)
    for step in sorted(draw.sample(range(8, 55), 3)):
        wait_for_step(tmp_path / "killed", step, killed)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        killed = start(path, tmp_path / "killed", *more, "--resume")
    assert killed.wait() == 0, killed.communicate()
    assert whole.wait() == 0, whole.communicate()
    assert_equal(everything(tmp_path / "whole", 60), everything(tmp_path / "killed", 60))
    assert records(tmp_path / "whole") == records(tmp_path / "killed")


@pytest.mark.slow  # starts processes
def test_two_processes_train_what_one_trains(tmp_path):
    done = run_processes(tmp_path / "first", 1, "--set", "train.steps=10")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "first" / "tokenizer"
    found = {}
    for name, processes in (("one", 1), ("two", 2)):
        more = ("--init-from", str(folder), "--train", "decoder")
        done = run_processes(tmp_path / name, processes, *more)
        assert done.returncode == 0, done.stderr
        found[name] = weights(tmp_path / name / "tokenizer")
    before = weights(folder)
    model = Tokenizer.from_pretrained(folder)
    for name, value in found["one"].items():
        if model.part_of(name) == "decoder":
            torch.testing.assert_close(found["two"][name], value, rtol=1e-2, atol=1e-4)
        else:
            assert torch.equal(found["two"][name], value) and torch.equal(value, before[name])


def test_a_recorded_step_trains_what_an_eager_one_does(tmp_path, source, monkeypatch):
    keys = {"steps": 6, "accumulation": 1, "batch_size": 20}
    train_tokenizer(only_decoder("ema", **keys), tmp_path / "eager", init_from=source("ema"))
    graph = record_on_cpu(monkeypatch)
    recorded = only_decoder("ema", **keys, cuda_graphs=True)
    train_tokenizer(recorded, tmp_path / "recorded", init_from=source("ema"))
    assert graph.replayed
    assert_equal(*(weights(tmp_path / n / "tokenizer") for n in ("eager", "recorded")))


def test_the_tokenizer_has_to_be_named_also_when_the_run_goes_on(tmp_path, source):
    with pytest.raises(ConfigError, match="trained: decoder: expected --init-from"):
        train_tokenizer(only_decoder("edvae"), tmp_path)
    train_tokenizer(only_decoder("edvae", steps=2), tmp_path, init_from=source("edvae"))
    with pytest.raises(ConfigError, match="also beside --resume"):
        train_tokenizer(only_decoder("edvae", steps=3), tmp_path, resume=True)
    with pytest.raises(ConfigError, match="trained: 'decoder' in the folder, 'all' requested"):
        train_tokenizer(config("edvae", steps=3), tmp_path, resume=True, init_from=source("edvae"))


def test_a_run_does_not_go_on_from_another_tokenizer(tmp_path, source):
    train_tokenizer(only_decoder("edvae", steps=2), tmp_path / "run", init_from=source("edvae"))
    train_tokenizer(config("edvae", steps=1), tmp_path / "other")
    with pytest.raises(CheckpointError, match="another tokenizer whose codes it decodes"):
        train_tokenizer(
            only_decoder("edvae", steps=3), tmp_path / "run", resume=True,
            init_from=tmp_path / "other" / "tokenizer",
        )  # fmt: skip


def test_a_checkpoint_with_another_encoder_is_not_exported(tmp_path, source):
    """Somebody may have changed the checkpoint, hashes included."""
    make = partial(only_decoder, "edvae", ema_decay=None)
    train_tokenizer(make(steps=2), tmp_path, init_from=source("edvae"))
    folder = tmp_path / "checkpoints" / "step-00000002"
    tensors = load_file(folder / "model.safetensors")
    tensors["quantizer.codebook"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "manifest.json").unlink()
    seal_folder(folder)
    with pytest.raises(ArtifactError, match=r"quantizer\.codebook: expected the values"):
        train_tokenizer(make(steps=3), tmp_path, resume=True, init_from=source("edvae"))


def test_a_vae_has_no_codes_to_keep():
    whole: dict[str, Any] = tree() | {"trained": "decoder"}
    del whole["tokenizer"]["quantizer"]
    whole["tokenizer"]["latent"] = {"kind": "gaussian", "dim": 4}
    with pytest.raises(ConfigError, match="trained: expected all with a VAE"):
        validate(whole, TokenizerRun, "test")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ema", {"encoder": "encoder", "quantizer": "quantizer", "decoder": "decoder"}),
        ("hierarchy", {"network": "encoder", "quantizers": "quantizer"}),
    ],
)
def test_every_tensor_belongs_to_a_part(name: str, parts: dict[str, Part]):
    reseed_global(0)
    model = build_tokenizer(config(name).tokenizer)
    for key in model.state_dict():
        first = key.split(".")[0]
        is_decoder = key.startswith(("network.decoder.", "likelihood."))
        assert model.part_of(key) == ("decoder" if is_decoder else parts[first])
    split = [model.tensors_of(part) for part in ("encoder", "quantizer", "decoder")]
    assert all(split) and sum(map(len, split)) == len(model.state_dict())


def test_factors_of_the_learning_rate_scale_the_steps_of_their_parts(tmp_path, source):
    """Adam's first step is the learning rate, up to its sign, where the gradient is not tiny."""
    factors = {"encoder": 0.25, "quantizer": 4.0}
    rate = {"kind": "constant", "value": 1e-3}
    run = config(
        "edvae", learning_rate_factors=factors, steps=1, learning_rate=rate, ema_decay=None
    )
    train_tokenizer(run, tmp_path, init_from=source("edvae"))
    before, after = weights(source("edvae")), weights(tmp_path / "tokenizer")
    model = Tokenizer.from_pretrained(tmp_path / "tokenizer")
    for part, factor in {**factors, "decoder": 1.0}.items():
        most = max(
            float((after[key] - before[key]).abs().max())
            for key, _ in model.named_parameters()
            if model.part_of(key) == part
        )
        assert most == pytest.approx(1e-3 * factor, rel=1e-2)


def test_factors_work_in_recorded_steps_and_across_a_stop(tmp_path, source, monkeypatch):
    keys = {"accumulation": 1, "batch_size": 20, "learning_rate_factors": {"encoder": 0.1}}
    make = partial(config, "edvae", **keys)
    start_at = {"init_from": source("edvae")}
    train_tokenizer(make(steps=6), tmp_path / "whole", **start_at)
    train_tokenizer(make(steps=2), tmp_path / "halves", **start_at)
    train_tokenizer(make(steps=6), tmp_path / "halves", resume=True)
    assert_equal(everything(tmp_path / "halves", 6), everything(tmp_path / "whole", 6))
    assert record_on_cpu(monkeypatch).replayed == 0
    train_tokenizer(make(steps=6, cuda_graphs=True), tmp_path / "recorded", **start_at)
    assert_equal(*(weights(tmp_path / n / "tokenizer") for n in ("whole", "recorded")))
    with pytest.raises(ConfigError, match=r"learning_rate_factors\.encoder"):
        changed = make(steps=7, learning_rate_factors={"encoder": 0.2})
        train_tokenizer(changed, tmp_path / "whole", resume=True)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"learning_rate_factors": {"encoder": 0}}, "greater than 0"),
        (
            {"learning_rate_factors": {"encoder": 0.5}, "trained": "decoder"},
            "learning_rate_factors: expected none with trained=decoder",
        ),
    ],
    ids=str,
)
def test_factors_that_mean_nothing_are_refused(keys, says):
    with pytest.raises(ConfigError, match=says):
        config("edvae", **keys)


def test_new_keys_at_their_defaults_are_in_no_dump():
    dumped = config("edvae", adversary=True).model_dump(mode="json")
    assert not {"trained", "learning_rate_factors"} & dumped.keys()
    assert "init_from" not in dumped["objective"]["adversarial"]


def adversarial(init_from: Path | None = None, **keys: object) -> TokenizerRun:
    run = config("edvae", adversary=True, **keys)
    whole = run.model_dump(mode="json")
    whole["objective"]["adversarial"]["init_from"] = None if init_from is None else str(init_from)
    return validate(whole, TokenizerRun, "test")


def test_a_discriminator_starts_anew_or_from_that_of_another_run(tmp_path):
    train_tokenizer(adversarial(steps=2), tmp_path / "first")
    there = tmp_path / "first" / "discriminator.safetensors"
    tokenizer = tmp_path / "first" / "tokenizer"
    found = {}
    for name, init_from in {"anew": None, "from": there}.items():
        train_tokenizer(adversarial(init_from, steps=2), tmp_path / name, init_from=tokenizer)
        step = load_file(tmp_path / name / "checkpoints" / "step-00000002" / "model_1.safetensors")
        found[name] = step["network.0.weight"] - load_file(there)["network.0.weight"]
    most = 2.5e-3  # two steps of Adam with a rate of 1e-3
    assert found["from"].abs().max() < most < found["anew"].abs().max()


def test_a_run_does_not_go_on_with_another_discriminator_to_start_from(tmp_path):
    train_tokenizer(adversarial(steps=2), tmp_path / "first")
    there = tmp_path / "first" / "discriminator.safetensors"
    train_tokenizer(adversarial(there, steps=2), tmp_path / "run")
    train_tokenizer(adversarial(there, steps=3), tmp_path / "run", resume=True)
    changed = load_file(there)
    changed["network.0.weight"] += 1
    save_file(changed, there)
    with pytest.raises(CheckpointError, match="another discriminator to start from"):
        train_tokenizer(adversarial(there, steps=4), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"not tensors", "cannot be read"),
        ({"network.0.weight": torch.zeros(2, 1, 4, 4)}, "expected .* found"),
    ],
    ids=["missing", "damaged", "other"],
)
def test_what_is_no_such_discriminator_is_refused(tmp_path, content, says):
    path = tmp_path / "discriminator.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content, path)
    with pytest.raises(InputError, match=rf"adversarial\.init_from: .*{says}"):
        train_tokenizer(adversarial(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()
