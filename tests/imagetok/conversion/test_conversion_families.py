"""Codes and images of converted tokenizers are those of their origin."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import check_codes_agree
from drawn_weights import drawn_images, drawn_weights
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import (
    ChameleonVQVAE,
    ChameleonVQVAEConfig,
    Emu3VQVAE,
    Emu3VQVAEConfig,
    JanusVQVAE,
    JanusVQVAEConfig,
)

import imagetok
from cli.main import _run
from imagetok.conversion.families import FAMILIES
from imagetok.networks.vqgan import VQGANConfig
from imagetok.seeding import reseed_global

DATA = Path(__file__).parent / "data"
IMAGES = drawn_images()
SIZES = {"base_channels": 32, "channel_multiplier": [1, 2, 2], "num_res_blocks": 1}
MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]


def initialised(model: Any) -> Any:
    """With norms and biases that do something."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.3)
    return model.eval()


def draw_codebook(codebook: Tensor, features: Tensor) -> None:
    """Codes at the encoder's scale: near some of its features."""
    rows = features.movedim(1, -1).flatten(0, -2)
    chosen = rows[torch.randperm(len(rows))[: len(codebook)]]
    with torch.no_grad():
        codebook.copy_(chosen + rows.std(dim=0) * torch.randn_like(chosen) / 10)


def unit(out: Tensor) -> Tensor:
    return out.add(1).div(2).clamp(0, 1)


def as_checkpoint(family: str, path: Path) -> Path:
    """A training checkpoint with drawn weights, as the authors' trainer writes it."""
    state = drawn_weights(json.loads((DATA / f"{family}.json").read_text()))
    if family == "llamagen":
        content: object = {"model": state, "steps": 10, "optimizer": {"state": {}}}
    else:
        extra = {"loss.discriminator.main.0.weight": torch.zeros(8, 3, 4, 4)}
        content = {"state_dict": state | extra, "epoch": 3, "global_step": 100}
    torch.save(content, path)
    return path


@pytest.mark.parametrize("family", ["llamagen", "taming"])
def test_authors_checkpoints_give_the_authors_codes_and_images(family, tmp_path):
    """Which were made once with their code; see make_authors_data.py."""
    stored = np.load(DATA / f"{family}.npz")
    path = as_checkpoint(family, tmp_path / "weights.ckpt")
    converted = imagetok.convert(path, family, tmp_path / "out", size=32)
    codes = check_codes_agree(converted.tokenizer, IMAGES, torch.from_numpy(stored["codes"]))
    theirs = torch.from_numpy(stored["codes"]).long()
    decoded = converted.tokenizer.decode((theirs,))
    assert_close(decoded, unit(torch.from_numpy(stored["decoded"])), rtol=0, atol=1e-4)
    again = imagetok.Tokenizer.from_pretrained(tmp_path / "out")
    assert torch.equal(again.encode(IMAGES)[0], codes)
    assert again.fingerprint == converted.tokenizer.fingerprint


def test_janus_of_transformers_gives_the_codes_of_its_authors(tmp_path):
    """Its quantizer leaves the features as they are; they are of unit length in its authors'."""
    reseed_global(1)
    config = JanusVQVAEConfig(
        **SIZES, latent_channels=16, embed_dim=8, num_embeddings=48, num_patches=8
    )
    model = initialised(JanusVQVAE(config))
    with torch.no_grad():
        features = model.quant_conv(model.encoder(2 * IMAGES - 1))
        draw_codebook(model.quantize.embedding.weight, features)
        directions = nn.functional.normalize(model.quantize.embedding.weight, dim=1)
        rows = nn.functional.normalize(features, dim=1).movedim(1, -1)
        theirs = torch.cdist(rows.flatten(1, 2), directions.expand(2, -1, -1)).argmin(-1)
    model.save_pretrained(tmp_path / "theirs")
    converted = imagetok.convert(tmp_path / "theirs", "janus", tmp_path / "ours", size=32)
    codes = check_codes_agree(converted.tokenizer, IMAGES, theirs)
    with torch.no_grad():
        decoded = unit(model.decode(codes.flatten(1)))
    assert_close(converted.tokenizer.decode((codes,)), decoded, rtol=0, atol=1e-4)
    assert any("unit length" in text for text in converted.remarks)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("diffusers", {"vq_embed_dim": 4, "latent_channels": 8, "layers_per_block": 2}),
        ("amused", {"mid_block_add_attention": False, "latent_channels": 8}),
        ("diffusers", {"norm_num_groups": 8, "in_channels": 1, "out_channels": 1}),
    ],
    ids=["attention", "amused", "grey"],
)
def test_a_vqmodel_of_diffusers_gives_its_codes_and_images(family, sizes, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    reseed_global(2)
    attends = sizes.get("mid_block_add_attention", True)
    model = initialised(
        diffusers.VQModel(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D", f"{'Attn' * attends}DownEncoderBlock2D"),
            up_block_types=(f"{'Attn' * attends}UpDecoderBlock2D", "UpDecoderBlock2D"),
            num_vq_embeddings=48,
            lookup_from_codebook=True,
            **sizes,
        )
    )
    images = IMAGES[:, : sizes.get("in_channels", 3)]
    inside = images if family == "amused" else 2 * images - 1
    with torch.no_grad():
        features = model.encode(inside).latents
        draw_codebook(model.quantize.embedding.weight, features)
        theirs = model.quantize(features)[2][2]
    model.save_pretrained(tmp_path / "theirs")
    converted = imagetok.convert(tmp_path / "theirs", family, tmp_path / "ours", size=32)
    codes = check_codes_agree(converted.tokenizer, images, theirs)
    with torch.no_grad():
        shape = (*codes.shape, features.shape[1])
        out = model.decode(codes, force_not_quantize=True, shape=shape).sample
    decoded = out.clamp(0, 1) if family == "amused" else unit(out)
    assert_close(converted.tokenizer.decode((codes,)), decoded, rtol=0, atol=1e-4)


def test_old_names_of_attention_in_diffusers_are_read(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    reseed_global(3)
    model = diffusers.VQModel(block_out_channels=(32,), num_vq_embeddings=8)
    model.save_pretrained(tmp_path / "new")
    renames = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(tmp_path / "new" / "diffusion_pytorch_model.safetensors")
    for new, old in renames.items():
        state = {name.replace(f".{new}.", f".{old}."): t for name, t in state.items()}
    save_file(state, tmp_path / "old.safetensors")
    found = {
        imagetok.convert(tmp_path / source, "diffusers", tmp_path / f"out-{source}", size=32)
        .tokenizer.fingerprint
        for source in ("new", "old.safetensors")
    }  # fmt: skip
    assert len(found) == 1


def test_emu3_of_transformers_gives_its_codes_and_images(tmp_path):
    reseed_global(4)
    config = Emu3VQVAEConfig(**SIZES, attn_resolutions=[2], hidden_size=64, codebook_size=48)
    model = initialised(Emu3VQVAE(config))
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2)
    inside = (IMAGES - MEAN) / STD
    sizes = torch.tensor([[32, 32]] * len(IMAGES))
    with torch.no_grad():
        hidden = model.encode(inside, sizes).last_hidden_state
        features = model.quant_conv(hidden.movedim(1, 2))[:, :, 0]
        draw_codebook(model.quantize.embedding.weight, features)
        theirs = torch.stack(model.encode(inside, sizes).image_tokens)
    model.save_pretrained(tmp_path / "theirs")
    converted = imagetok.convert(tmp_path / "theirs", "emu3", tmp_path / "ours", size=32)
    codes = check_codes_agree(converted.tokenizer, IMAGES, theirs)
    with torch.no_grad():
        decoded = (model.decode(codes) * STD + MEAN).clamp(0, 1)
    assert_close(converted.tokenizer.decode((codes,)), decoded, rtol=0, atol=1e-4)
    again = imagetok.Tokenizer.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.encode(IMAGES)[0], codes)


def test_chameleon_of_transformers_gives_its_codes_and_says_that_it_cannot_decode(tmp_path):
    reseed_global(5)
    config = ChameleonVQVAEConfig(
        **SIZES, latent_channels=16, embed_dim=8, num_embeddings=48, resolution=32
    )
    model = initialised(ChameleonVQVAE(config))
    with torch.no_grad():
        draw_codebook(
            model.quantize.embedding.weight, model.quant_conv(model.encoder(2 * IMAGES - 1))
        )
    model.save_pretrained(tmp_path / "theirs")
    converted = imagetok.convert(tmp_path / "theirs", "chameleon", tmp_path / "ours", size=32)
    with torch.no_grad():
        theirs = model.encode(2 * IMAGES - 1).image_tokens
    codes = check_codes_agree(converted.tokenizer, IMAGES, theirs)
    with pytest.raises(imagetok.ImagetokError, match="only encodes: its class has no decoder"):
        converted.tokenizer.decode((codes,))
    imagetok.encode(converted.tokenizer, IMAGES, tmp_path / "codes", device="cpu")
    with pytest.raises(imagetok.ImagetokError, match="authors' own checkpoint has one, convert"):
        imagetok.decode(converted.tokenizer, tmp_path / "codes", tmp_path / "decoded")
    assert not (tmp_path / "decoded").exists()
    assert "only encodes" in (tmp_path / "ours" / "README.md").read_text()
    assert not converted.can_decode


@pytest.mark.parametrize("is_float16", [False, True])
def test_a_tokenizer_inside_a_larger_model_is_found_by_its_prefix(is_float16, tmp_path):
    state = drawn_weights(json.loads((DATA / "llamagen.json").read_text()))
    larger = {f"gen_vision_model.{name}": t for name, t in state.items()}
    larger = {name: t.half() if is_float16 else t for name, t in larger.items()}
    shards = {"lm_head.weight": torch.zeros(2, 2)}, larger
    folder = tmp_path / "model"
    folder.mkdir()
    index = {}
    for n, shard in enumerate(shards, start=1):
        name = f"model-0000{n}-of-00002.safetensors"
        index |= dict.fromkeys(shard, name)
        save_file(shard, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: deepseek\n---\n# Model\n")
    (folder / "model-00001-of-00002.safetensors").unlink()  # it holds nothing of the tokenizer
    file = "model.safetensors.index.json"
    found = imagetok.convert(folder, "llamagen", tmp_path / "out", size=32, file=file)
    assert found.license == "deepseek"
    torch.save(state, tmp_path / "alone.pt")
    alone = imagetok.convert(tmp_path / "alone.pt", "llamagen", tmp_path / "alone", size=32)
    assert (found.tokenizer.fingerprint == alone.tokenizer.fingerprint) is not is_float16
    assert all(p.dtype is torch.float32 for p in found.tokenizer.parameters())


def test_shards_of_a_converted_tokenizer_are_written_verified_and_decoded(tmp_path):
    path = as_checkpoint("taming", tmp_path / "last.ckpt")
    words = ["convert", str(path), "--from", "taming", "--size", "32", "--license", "MIT"]
    assert _run([*words, "--out", str(tmp_path / "tokenizer")]) == 0
    shards = str(tmp_path / "shards")
    encode = ["encode", "--tokenizer", str(tmp_path / "tokenizer"), "--data", "shapes"]
    assert _run([*encode, "--shards", shards, "--limit", "8"]) == 0
    assert _run(["verify", shards]) == 0
    out = str(tmp_path / "decoded")
    tokenizer = str(tmp_path / "tokenizer")
    assert _run(["decode", "--tokenizer", tokenizer, "--shards", shards, "--out", out]) == 0
    assert len(list(Path(out).rglob("*.png"))) >= 8


def test_the_commands_families_are_those_of_the_package():
    from cli.convert import FAMILIES as named

    assert named == list(FAMILIES)


@pytest.mark.parametrize(
    ("family", "shapes"),
    [
        ("llamagen", {"quantize.embedding.weight": (16384, 8)}),
        ("taming", {"quantize.embedding.weight": (1024, 256)}),
    ],
)
def test_published_sizes_are_told_from_shapes(family, shapes):
    """Of the published f16 networks, by the names that their authors' code gives."""
    from imagetok.conversion.families import canonical_names
    from imagetok.conversion.layer_names import encoder_names, tensor_names
    from imagetok.conversion.vqgan import architecture_of
    from imagetok.networks import build_network

    features = shapes["quantize.embedding.weight"][1]
    with torch.device("meta"):
        encoder, _ = build_network(VQGANConfig(), 3, features, features)
    names = tensor_names(encoder, encoder_names(VQGANConfig()))
    shapes = shapes | {names[k]: tuple(v.shape) for k, v in encoder.state_dict().items()}
    assert canonical_names(FAMILIES["taming"], shapes, "weights")["encoder.conv_in.weight"]
    found = architecture_of(FAMILIES[family], shapes, 32, (256, 256), "weights")
    assert VQGANConfig(**found["network"]) == VQGANConfig()
    assert found["quantizer"]["num_codes"] == shapes["quantize.embedding.weight"][0]
