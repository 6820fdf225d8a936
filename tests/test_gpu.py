"""What only a GPU can show: bits of resumed runs, agreement with the CPU, steps without waits."""

import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from imagetok import configs
from imagetok.config import validate
from imagetok.data import open_images, parse_spec
from imagetok.data.augmentation import AugmentConfig
from imagetok.data.augmented_images import AugmentedImages, larger
from imagetok.data.resident import make_resident
from imagetok.images import ImageContract, from_stored
from imagetok.seeding import reseed_global
from imagetok.tokenizers import Tokenizer, build_autoencoder
from imagetok.training.config import TokenizerRun
from imagetok.training.cuda_graphs import WARM_UP
from imagetok.training.job import build_accelerator
from imagetok.training.loop import rehearse
from imagetok.training.tokenizer import job_on_noise, train_tokenizer
from prior.build import build_prior
from prior.config import PriorConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
GPU, CPU = torch.device("cuda"), torch.device("cpu")
TOKENIZERS = ["digits/edvae", "digits/vqvae-ema", "digits/sqvae", "digits/vqste", "shapes/vqvae2"]


def run_of(name: str, **train: object) -> TokenizerRun:
    tree = configs(name).tree
    changes = {"trackers": [], "evaluate_every": 5, "checkpoint_every": 5, **train}
    return validate(tree | {"train": tree["train"] | changes}, TokenizerRun, name)


def tokenizer(name: str) -> tuple[Tokenizer, torch.Tensor]:
    """An untrained tokenizer and random images, on the CPU."""
    run = run_of(name)
    reseed_global(0)
    model = build_autoencoder(run.tokenizer).eval()
    assert isinstance(model, Tokenizer)
    image = run.tokenizer.image
    draw = torch.Generator().manual_seed(0)
    shape = (64, image.channels, image.height, image.width)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=draw)
    return model, from_stored(pixels, image)


@pytest.mark.parametrize("name", TOKENIZERS[:3])
def test_a_deterministic_run_is_resumed_bit_identically(name, tmp_path):
    run = run_of(name, steps=10, precision="fp32", deterministic=True)
    train_tokenizer(run, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    for later in ("checkpoints/step-00000010", "tokenizer"):
        shutil.rmtree(tmp_path / "stopped" / later)
    train_tokenizer(run, tmp_path / "stopped", resume=True)
    folders = (tmp_path / "whole", tmp_path / "stopped")
    whole, resumed = (load_file(run / "tokenizer" / "model.safetensors") for run in folders)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    logs = [(folder / "metrics.jsonl").read_bytes() for folder in folders]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("name", "is_compiled"), [*((name, False) for name in TOKENIZERS), (TOKENIZERS[0], True)]
)
def test_a_recorded_run_is_the_same(name, is_compiled, tmp_path):
    """With a learning rate that float32 holds, in which recorded steps read it."""
    rate = {"kind": "constant", "value": 2.0**-11}
    for is_recorded in (False, True):
        run = run_of(
            name,
            **{"steps": 10, "precision": "fp32", "deterministic": True, "learning_rate": rate},
            **{"compile": is_compiled, "cuda_graphs": is_recorded},
        )
        train_tokenizer(run, tmp_path / str(is_recorded))
    plain, recorded = (
        load_file(tmp_path / name / "tokenizer" / "model.safetensors") for name in ("False", "True")
    )
    assert all(torch.equal(plain[key], recorded[key]) for key in plain)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_codes_and_reconstructions_agree_with_the_cpu(name):
    model, images = tokenizer(name)
    expected = model.encode(images)
    decoded = model.decode(expected)
    model.to(GPU)
    found = model.encode(images.to(GPU))
    for one, other in zip(expected, found, strict=True):
        assert (one == other.cpu()).float().mean() > 0.999
    again = model.decode(tuple(level.to(GPU) for level in expected)).cpu()
    assert (again - decoded).abs().max() < 0.01  # decoders may use TF32


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("is_recorded", [False, True])
def test_ten_steps_wait_for_nothing(name, precision, is_recorded):
    run = run_of(name, steps=20, precision=precision, log_every=1000, cuda_graphs=is_recorded)
    accelerator = build_accelerator(run.train, Path("nowhere"), None)
    steps = rehearse(job_on_noise(run), run.train, accelerator=accelerator, seed=0)
    list(islice(steps, WARM_UP + 1))  # the start of a codebook waits once, and so does recording
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(islice(steps, 10))) == 10
    finally:
        torch.cuda.set_sync_debug_mode("default")
        steps.close()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_compiled_model_gives_the_same(name):
    model, images = tokenizer(name)
    model.to(GPU)
    images = images.to(GPU)

    def step() -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        draw = torch.Generator(GPU).manual_seed(0)
        out = model(images, temperature=0.9, generator=draw)
        torch.stack(list(out.losses.values())).sum().backward()
        return out.indices, out.x_hat.detach()

    expected = step()
    model.compile(fullgraph=True)
    found = step()
    for one, other in zip(expected[0], found[0], strict=True):
        assert (one == other).float().mean() > 0.999
    assert (expected[1] - found[1]).abs().max() < 0.01


@pytest.mark.parametrize("kind", ["gpt", "pixelsnail"])
def test_samples_do_not_depend_on_what_is_drawn_with_them(kind):
    sizes = {"gpt": {"layers": 2, "heads": 2, "width": 32}, "pixelsnail": {"width": 16}}
    tree = {
        "tokenizer_fingerprint": "f" * 64, "num_codes": (64,), "grids": ((4, 4),),
        "num_classes": 0, "model": {"kind": kind, **sizes[kind]},
    }  # fmt: skip
    reseed_global(0)
    prior: nn.Module = build_prior(validate(tree, PriorConfig, kind)).eval().to(GPU)
    many, few = prior.sample(20, seed=3), prior.sample(5, seed=3)
    assert torch.equal(many[0][:5], few[0])


def test_kept_images_are_those_of_the_cpu_and_stay_on_the_gpu():
    """Flips and crops without resizing are the same bits; other changes differ by a grey level."""
    image = ImageContract(mode="rgb", height=16, width=16)
    changes = {
        "exact": AugmentConfig(horizontal_flip=True, random_crop={"side": 18}),
        "near": AugmentConfig(
            random_resized_crop={"side": 20}, colour_jitter={"brightness": 0.2, "hue": 0.1}
        ),
    }
    for name, change in changes.items():
        data, split = parse_spec("shapes:train,count=64")
        source = AugmentedImages(open_images(data, split, larger(change, image)), change, image, 0)
        kept = make_resident(source, GPU, "auto")
        assert kept is not None and kept.images.is_cuda
        indices, epochs = list(range(64)), [1] * 64
        expected, found = source.read_at(indices, epochs), kept.read_at(indices, epochs)
        assert found.images.is_cuda
        difference = (expected.images.int() - found.images.cpu().int()).abs().max()
        assert difference <= (0 if name == "exact" else 1)
