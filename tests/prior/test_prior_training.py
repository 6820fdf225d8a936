"""Training a prior on codes: of its own tokenizer only; what it measures and leaves behind."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from recorded_graph import record_on_cpu
from representative import slow_but
from safetensors.torch import load_file
from torch.testing import assert_close

from imagetok.codes.encode import encode_dataset, make_plan
from imagetok.codes.reader import open_codes
from imagetok.config import read_yaml, validate
from imagetok.data import ArrayImages
from imagetok.errors import ConfigError, ResourceError, ShardError
from imagetok.tokenizers import Tokenizer
from imagetok.training.cuda_graphs import WARM_UP
from imagetok.training.job import Job
from imagetok.training.loop import train
from prior import Prior
from prior.base import NO_LABEL
from prior.config import PriorRun
from prior.estimate import estimate_prior
from prior.training import CodeSubset, evaluate_bits, open_data, train_prior, visible_labels

COUNT = 40


def encode_random(
    tokenizer_folder: Path, folder: Path, count: int, classes: tuple[str, ...] = ("a", "b", "c")
) -> Path:
    """Codes of random images, which have these classes in turn."""
    tokenizer = Tokenizer.from_pretrained(tokenizer_folder)
    pixels = torch.randint(0, 256, (count, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    images = ArrayImages(
        pixels.to(torch.uint8),
        torch.arange(count) % len(classes) if classes else None,
        name="random",
        split="train",
        contract=tokenizer.image,
        class_names=classes,
    )
    plan = make_plan(tokenizer, images, source="random:train", name="tiny", samples_per_shard=16)
    encode_dataset(tokenizer, images, folder, plan)
    return folder


@pytest.fixture(scope="module")
def codes_folder(tokenizer_folder, tmp_path_factory):
    return encode_random(tokenizer_folder, tmp_path_factory.mktemp("codes"), COUNT)


def make_run(codes, tokenizer, **changes) -> PriorRun:
    tree = {
        "kind": "prior",
        "data": {"source": str(codes), "held_out": 0.2},
        "tokenizer": str(tokenizer),
        "model": {"kind": "gpt", "layers": 1, "heads": 2, "width": 16, "dropout": 0.1},
        "train": {
            "steps": 3,
            "batch_size": 8,
            "learning_rate": {"kind": "constant", "value": 1.0e-3},
            "evaluate_every": 3,
            "checkpoint_every": 3,
            "trackers": [],
        },
        **changes,
    }
    return validate(tree, PriorRun, "test")


def test_a_recorded_run_with_dropout_equals_an_ordinary_one(
    codes_folder, tokenizer_folder, tmp_path, monkeypatch
):
    graphs = record_on_cpu(monkeypatch)
    run = make_run(codes_folder, tokenizer_folder)
    changes = {"steps": 8, "ema_decay": 0.9, "clip_norm": 0.5, "log_every": 1}
    for name in ("plain", "recorded"):
        settings = changes | {"cuda_graphs": name == "recorded"}
        train = run.train.model_copy(update=settings)
        train_prior(run.model_copy(update={"train": train}), tmp_path / name, device="cpu")
    assert (graphs.recorded, graphs.replayed) == (1, 8 - WARM_UP)
    for part in ("metrics.jsonl", "prior/model.safetensors"):
        files = [tmp_path / name / part for name in ("plain", "recorded")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_activations_are_not_computed_again_in_a_recorded_step(codes_folder, tokenizer_folder):
    train = make_run(codes_folder, tokenizer_folder).train.model_dump()
    changes = {"train": train | {"cuda_graphs": True}, "gradient_checkpointing": True}
    with pytest.raises(ConfigError, match=r"gradient_checkpointing: expected false .* found true"):
        make_run(codes_folder, tokenizer_folder, **changes)


def test_codes_of_another_tokenizer_are_refused(codes_folder, other_tokenizer_folder, tmp_path):
    other = Tokenizer.from_pretrained(other_tokenizer_folder).fingerprint
    found = open_codes(codes_folder).fingerprint
    run = make_run(codes_folder, other_tokenizer_folder)
    with pytest.raises(ShardError, match=rf"belongs to tokenizer {found[:16]}.*is {other[:16]}"):
        train_prior(run, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "prior").exists()


def test_a_dry_run_without_codes_measures_on_random_codes_of_the_tokenizer(
    codes_folder, tokenizer_folder, tmp_path
):
    known = estimate_prior(make_run(codes_folder, tokenizer_folder), device="cpu")
    assert known.refusal is None
    assert (known.facts.images, known.facts.held_out) == (COUNT * 0.8, COUNT * 0.2)
    found = estimate_prior(make_run(tmp_path / "none", tokenizer_folder), device="cpu")
    assert isinstance(found.refusal, ShardError)
    assert found.facts == dataclasses.replace(
        known.facts,
        data=str(tmp_path / "none"),
        images=None,
        held_out=None,
        class_names=None,
        parameters=found.facts.parameters,
    )
    assert (found.facts.parameters, known.facts.parameters) == (
        known.facts.parameters - 3 * 16,  # the embeddings of its classes
        known.facts.parameters,
    )
    assert found.seconds is not None and found.seconds > 0


def test_a_dry_run_without_a_tokenizer_names_all_that_is_missing(
    codes_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = make_run("runs/digits-edvae/codes", "runs/digits-edvae/tokenizer")
    by_its_config = estimate_prior(run, device="cpu")
    assert (by_its_config.facts.num_codes, by_its_config.facts.grids) == ((64,), ((4, 4),))
    assert by_its_config.seconds is not None
    for place in ("runs/digits-edvae/tokenizer: no such", "data.source: runs/digits-edvae/codes"):
        assert place in str(by_its_config.refusal)
    unknown = estimate_prior(make_run("codes", "runs/other/tokenizer"), device="cpu")
    assert (unknown.facts.parameters, unknown.seconds, unknown.facts.steps) == (None, None, 3)
    assert unknown.rows()["parameters"] == "unknown"
    by_its_codes = estimate_prior(make_run(codes_folder, "runs/other/tokenizer"), device="cpu")
    assert by_its_codes.facts.class_names == ("a", "b", "c")
    assert "data.source" not in str(by_its_codes.refusal)


@pytest.mark.parametrize("conditional", [True, False])
def test_a_finished_run_leaves_a_prior_that_samples(
    conditional, codes_folder, tokenizer_folder, tmp_path
):
    run = make_run(codes_folder, tokenizer_folder, conditional=conditional)
    measures = train_prior(run, tmp_path / "run", device="cpu")
    prior = Prior.from_pretrained(tmp_path / "run" / "prior")
    assert prior.config.class_names == (("a", "b", "c") if conditional else ())
    embedded = Tokenizer.from_pretrained(tmp_path / "run" / "prior" / "tokenizer")
    assert embedded.fingerprint == prior.config.tokenizer_fingerprint
    assert embedded.decode(prior.sample(4)).shape == (4, 1, 6, 6)
    assert measures["num_images"] == COUNT * 0.2
    assert_close(measures["bits_per_image"], 9 * measures["bits_per_code"])
    if not conditional:
        with pytest.raises(ConfigError, match="without classes"):
            prior.sample(1, label=0)


def test_the_measured_bits_are_those_of_log_prob(codes_folder, flat):
    dataset = open_codes(codes_folder)
    chosen = [3, 39, 17, 0]
    batch = dataset.__getitems__(chosen)
    bits = -float(flat.log_prob(batch.codes, batch.labels).sum()) / (4 * 9 * math.log(2))
    assert_close(evaluate_bits(flat, CodeSubset(dataset, chosen)), [bits])


def test_bits_stand_beside_yardsticks_and_a_verdict(
    codes_folder, tokenizer_folder, tmp_path, caplog
):
    """Random images: at the start nothing is learned."""
    rate = {"kind": "constant", "value": 0.0}
    train = {"steps": 1, "batch_size": 8, "learning_rate": rate, "trackers": []}
    with caplog.at_level("WARNING", logger="imagetok"):
        measures = train_prior(
            make_run(codes_folder, tokenizer_folder, train=train), tmp_path / "run", device="cpu"
        )
    assert_close(measures["bits_per_pixel"], measures["bits_per_image"] / 36)
    assert measures["order1_bits_per_code"] > 0
    learned = measures["bits_per_code"] < measures["order0_bits_per_code"]
    assert ("has not learned any dependence" in caplog.text) != learned


STEP_TRAIN = {
    "steps": 12, "batch_size": 8, "learning_rate": {"kind": "constant", "value": 0.1},
    "evaluate_every": 2, "checkpoint_every": 5, "trackers": [],
}  # fmt: skip


def test_held_out_labels_are_matched_by_name(codes_folder, tokenizer_folder, tmp_path):
    turned = encode_random(tokenizer_folder, tmp_path / "turned", 9, ("c", "a"))
    run = make_run(
        codes_folder, tokenizer_folder, data={"source": str(codes_folder), "test": str(turned)}
    )
    training, held_out = open_data(run, open_codes(codes_folder).fingerprint)
    assert training.dataset.plan.class_names == ("a", "b", "c")
    assert held_out.__getitems__([0, 1, 2]).labels.tolist() == [2, 0, 2]
    same = make_run(
        codes_folder,
        tokenizer_folder,
        data={"source": str(codes_folder), "test": str(codes_folder)},
    )
    by_number, _ = open_data(same, open_codes(codes_folder).fingerprint)
    assert training.identity() != by_number.identity(), "such runs of before are not continued"
    assert by_number.identity().startswith(open_codes(codes_folder).manifest.root)
    train_prior(run, tmp_path / "run", device="cpu")
    model = Prior.from_pretrained(tmp_path / "run" / "prior")
    batch = open_codes(turned)[:]
    labels = torch.tensor([(2, 0)[n] for n in batch.labels])
    bits = -float(model.log_prob(batch.codes, labels).sum()) / (9 * 9 * math.log(2))
    assert evaluations(tmp_path / "run")[-1][1] == pytest.approx(bits, rel=1e-5)


def test_held_out_codes_of_other_classes_are_refused_before_training(
    codes_folder, tokenizer_folder, tmp_path, caplog
):
    def train_on(test: Path, out: str, **changes) -> None:
        data = {"source": str(codes_folder), "test": str(test)}
        run = make_run(codes_folder, tokenizer_folder, data=data, **changes)
        train_prior(run, tmp_path / out, device="cpu")

    more = encode_random(tokenizer_folder, tmp_path / "more", 8, ("a", "b", "c", "d"))
    lists = r"data\.test: .*more: expected .* 3 \(a, b, c\), found 4 \(a, b, c, d\), of which d is"
    with pytest.raises(ShardError, match=lists):
        train_on(more, "refused")
    assert not (tmp_path / "refused").exists()
    plain = encode_random(tokenizer_folder, tmp_path / "plain", 8, ())
    with pytest.raises(ShardError, match=r"3 \(a, b, c\), found none; .* label_dropout > 0"):
        train_on(plain, "refused", label_dropout=0.0)
    train_on(plain, "unlabelled")
    assert "has no labels, so bits per code are measured without classes" in caplog.text
    train_on(more, "unconditional", conditional=False)


def test_held_out_codes_of_training_images_are_told(
    codes_folder, tokenizer_folder, tmp_path, caplog
):
    data = {"source": str(codes_folder), "test": str(codes_folder)}
    run = make_run(codes_folder, tokenizer_folder, data=data)
    open_data(run, open_codes(codes_folder).fingerprint)
    assert "has training images (random:train)" in caplog.text


def test_a_prior_of_other_classes_is_no_start(codes_folder, tokenizer_folder, tmp_path):
    train_prior(make_run(codes_folder, tokenizer_folder), tmp_path / "first", device="cpu")
    other = encode_random(tokenizer_folder, tmp_path / "other", 12, ("b", "a", "c"))
    with pytest.raises(
        ConfigError, match=r"its classes differ .* expected .*\(b, a, c\), found .*\(a, b, c\)"
    ):
        train_prior(
            make_run(other, tokenizer_folder),
            tmp_path / "second",
            init_from=tmp_path / "first" / "prior",
            device="cpu",
        )


def evaluations(run) -> list[tuple[int, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(r["step"], r["bits_per_code"]) for r in lines if r["split"] == "test"]


@pytest.fixture
def script(monkeypatch) -> Callable[..., dict[int, float]]:
    """script(bits): what runs measure from here on, by step; gives what they would have measured.

    So no test depends on how fast some CPU learns.
    """

    def replace(bits: Mapping[int, float]) -> dict[int, float]:
        real: dict[int, float] = {}

        def scripted(job: Job, *args: object, **options: object) -> dict:
            def evaluate(model, step, check):
                measures = job.evaluate(model, step, check)
                real[step] = measures["bits_per_code"]
                return {**measures, "bits_per_code": bits[step]}

            return train(dataclasses.replace(job, evaluate=evaluate), *args, **options)

        monkeypatch.setattr("prior.training.train", scripted)
        return real

    return replace


def test_the_best_weights_are_kept_beside_the_last(
    codes_folder, tokenizer_folder, tmp_path, script
):
    """Either may become the artifact."""
    bits = {2: 3.0, 4: 1.0, 6: 2.0, 8: 4.0}
    real = script(bits)
    for export, step in (("best", 4), ("last", 8)):
        run = make_run(
            codes_folder, tokenizer_folder, train=STEP_TRAIN | {"steps": 8}, export=export
        )
        measures = train_prior(run, tmp_path / export, device="cpu")
        assert evaluations(tmp_path / export) == list(bits.items())
        assert measures["bits_per_code"] == bits[step]
        _, held_out = open_data(run, open_codes(codes_folder).fingerprint)
        prior = Prior.from_pretrained(tmp_path / export / "prior")
        assert_close(evaluate_bits(prior, held_out), [real[step]])
        finished = json.loads((tmp_path / export / "finished.json").read_bytes())
        assert finished == {"step": 8, "exported": step}
    newest = tmp_path / "last" / "checkpoints" / "step-00000008" / "best.safetensors"
    best = load_file(tmp_path / "best" / "prior" / "model.safetensors")
    assert all(torch.equal(best[k], v) for k, v in load_file(newest).items())
    assert len(set(real.values())) == 4  # of four different weights


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_run_ends_early_and_the_same_when_resumed(
    ema_decay, codes_folder, tokenizer_folder, tmp_path, script
):
    """Evaluations and checkpoints fall on other steps; odd steps are measured at an end only."""
    bits = {1: 0.5, 2: 5.0, 3: 0.6, 4: 2.0, 5: 0.7, 6: 3.0, 7: 9.0, 8: 2.0, 10: 1.0, 12: 1.5}
    script(bits)

    def train(name: str, steps: int = 12, patience: int | None = 2, resume: bool = False):
        changes = {"ema_decay": ema_decay, "steps": steps}
        run = make_run(
            codes_folder, tokenizer_folder, train=STEP_TRAIN | changes, export="best", seed=2,
            patience=patience,
        )  # fmt: skip
        return train_prior(run, tmp_path / name, resume=resume, device="cpu")

    whole = train("whole")
    ended = evaluations(tmp_path / "whole")
    assert [step for step, _ in ended] == [2, 4, 6, 8]
    weights = (tmp_path / "whole" / "prior" / "model.safetensors").read_bytes()
    for stop in (1, 4, 5):
        name = f"stop{stop}"
        assert train(name, steps=stop)["bits_per_code"] == bits[stop]
        assert train(name, resume=True) == whole
        assert [e for e in evaluations(tmp_path / name) if e[0] % 2 == 0] == ended
        assert (tmp_path / name / "prior" / "model.safetensors").read_bytes() == weights
    before = (tmp_path / "whole" / "prior" / "model.safetensors").stat().st_mtime_ns
    assert train("whole", resume=True) == whole  # already finished
    assert (tmp_path / "whole" / "prior" / "model.safetensors").stat().st_mtime_ns == before
    train("whole", patience=None, resume=True)  # more patience: it goes on
    assert evaluations(tmp_path / "whole")[-1][0] == 12


def test_an_unconditional_prior_sees_no_label():
    labels = torch.tensor([0, 2, NO_LABEL])
    assert visible_labels(3, labels).tolist() == [0, 2, NO_LABEL]
    assert visible_labels(0, labels).tolist() == [NO_LABEL] * 3


def test_a_test_set_of_its_own_is_measured_whole(codes_folder, tokenizer_folder, tmp_path):
    data = {"source": str(codes_folder), "test": str(codes_folder)}
    run = make_run(codes_folder, tokenizer_folder, data=data)
    measures = train_prior(run, tmp_path / "run", device="cpu")
    assert measures["num_images"] == COUNT
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines) and lines


DROPOUTS = [
    {"kind": "gpt", "layers": 1, "heads": 2, "width": 16, "dropout": 0.1},
    {"kind": "pixelsnail", "width": 8, "blocks": 1, "units": 1, "heads": 2, "dropout": 0.1},
    {"kind": "pixelcnn", "width": 8, "layers": 2, "head": 8, "dropout": 0.1},
]


@pytest.mark.parametrize("model", slow_but(DROPOUTS[:1], DROPOUTS), ids=lambda model: model["kind"])
def test_a_resumed_prior_with_dropout_is_the_uninterrupted_one(
    model, codes_folder, tokenizer_folder, tmp_path
):
    train = {
        "batch_size": 8,
        "accumulation": 2,
        "learning_rate": {"kind": "constant", "value": 1.0e-2},
        "optimizer": {"weight_decay": 0.1 if model["kind"] == "gpt" else 0.0},
        "clip_norm": 1.0,
        "ema_decay": 0.9,
        "trackers": [],
    }

    def run(steps: int, name: str, resume: bool = False) -> bytes:
        config = make_run(
            codes_folder, tokenizer_folder, model=model, train={**train, "steps": steps}
        )
        train_prior(config, tmp_path / name, resume=resume, device="cpu")
        return (tmp_path / name / "prior" / "model.safetensors").read_bytes()

    whole = run(7, "whole")
    for stop in (1, 4):  # an epoch has four steps
        first = run(stop, f"stopped{stop}")
        assert first != whole
        assert run(7, f"stopped{stop}", resume=True) == whole


@pytest.mark.parametrize("positions", slow_but(["rotary"], ["learned", "rotary"]))
def test_gradient_checkpointing_and_bf16(positions, codes_folder, tokenizer_folder, tmp_path):
    """The first changes nothing, the second little; both leave a float32 prior."""

    def run(name: str, precision: str = "no", checkpointing: bool = False):
        model = {"kind": "gpt", "layers": 2, "heads": 2, "width": 16, "positions": positions}
        train = {**STEP_TRAIN, "steps": 3, "mixed_precision": precision}
        train["learning_rate"] = {"kind": "constant", "value": 1.0e-3}
        config = make_run(
            codes_folder, tokenizer_folder, model=model, train=train,
            gradient_checkpointing=checkpointing,
        )  # fmt: skip
        measures = train_prior(config, tmp_path / name, device="cpu")
        return measures["bits_per_code"], load_file(tmp_path / name / "prior" / "model.safetensors")

    plain, weights = run("plain")
    again, same = run("checkpointing", checkpointing=True)
    near, others = run("bf16", precision="bf16")
    assert again == plain and all(torch.equal(weights[k], same[k]) for k in weights)
    assert 0 < abs(near - plain) < 0.02 * plain
    assert all(v.dtype == torch.float32 for v in others.values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(
    "model",
    [
        {"kind": "gpt", "layers": 1, "heads": 2, "width": 16, "dropout": 0.0},
        {"kind": "pixelcnn", "width": 8, "layers": 2, "head": 8, "dropout": 0.0},
        {"kind": "pixelsnail", "width": 8, "blocks": 1, "units": 1, "heads": 2, "dropout": 0.0},
    ],
    ids=lambda model: model["kind"],
)
def test_a_compiled_run_learns_the_same(model, codes_folder, tokenizer_folder, tmp_path):
    """With an average of the weights, which is a copy of what was compiled.

    Bits are compared, not weights: some, such as biases of keys, have no gradient but rounding.
    """

    def run(name: str, compiled: bool):
        train = {**STEP_TRAIN, "steps": 4, "ema_decay": 0.5, "compile": compiled}
        train["learning_rate"] = {"kind": "constant", "value": 1.0e-2}
        config = make_run(codes_folder, tokenizer_folder, model=model, train=train)
        train_prior(config, tmp_path / name, device="cpu")
        return evaluations(tmp_path / name), load_file(
            tmp_path / name / "prior" / "model.safetensors"
        )

    before = torch._dynamo.utils.counters["frames"]["ok"]
    plain, names = run("plain", False)
    assert torch._dynamo.utils.counters["frames"]["ok"] == before
    compiled, same = run("compiled", True)
    assert torch._dynamo.utils.counters["frames"]["ok"] > before
    assert names.keys() == same.keys()
    assert_close(compiled, plain, atol=1e-3, rtol=0)


def test_a_run_records_the_commit_of_a_tokenizer_on_the_hub(
    hub: HubServer, codes_folder, tokenizer_folder, other_tokenizer_folder, tmp_path, fresh_cache
):
    def train(steps: int, source: str, name: str = "run", resume: bool = False) -> bytes:
        schedule = {"kind": "constant", "value": 1.0e-3}
        train = {"batch_size": 8, "learning_rate": schedule, "trackers": [], "steps": steps}
        config = make_run(codes_folder, source, train=train)
        train_prior(config, tmp_path / name, resume=resume, device="cpu")
        return (tmp_path / name / "prior" / "model.safetensors").read_bytes()

    def recorded(name: str = "run") -> str:
        return read_yaml(tmp_path / name / "config.yaml")["tokenizer"]

    expected = train(4, str(tokenizer_folder), "local")
    assert recorded("local") == str(tokenizer_folder)
    first = Tokenizer.from_pretrained(tokenizer_folder)
    pushed = first.push_to_hub("ann/vqvae")
    train(2, "ann/vqvae")
    assert recorded() == pushed.origin
    Tokenizer.from_pretrained(other_tokenizer_folder).push_to_hub("ann/vqvae")  # main moves
    with pytest.raises(ShardError, match="encode the images with this tokenizer"):
        train(4, "ann/vqvae", "fresh")
    fresh_cache()
    assert train(4, "ann/vqvae", resume=True) == expected
    assert recorded() == pushed.origin
    embedded = Tokenizer.from_pretrained(tmp_path / "run" / "prior" / "tokenizer")
    assert embedded.fingerprint == first.fingerprint
    hub.stop()
    train(5, "ann/vqvae@main", resume=True)  # the recorded commit is in the cache
    assert recorded() == pushed.origin
    with pytest.raises(ResourceError, match="cache does not have"):
        train(6, "ann/other", resume=True)
    train(6, str(tokenizer_folder), resume=True)
    assert recorded() == str(tokenizer_folder)


@pytest.mark.parametrize(
    ("source", "data", "message"),
    [
        (0, {}, "data.source: .*: expected codes of at least one image, found 0"),
        (5, {"test": 0}, "data.test: .*: expected codes of at least one image, found 0"),
        (
            1,
            {},
            "data.source: .*: expected more images .*, found 1, all held out by data.held_out=0.2",
        ),
        (5, {"held_out": 0.95}, "found 5, all held out by data.held_out=0.95; lower it"),
    ],
)
def test_nothing_to_train_or_measure_on_is_refused_before_training(
    source, data, message, tokenizer_folder, tmp_path
):
    codes = encode_random(tokenizer_folder, tmp_path / "codes", source)
    if "test" in data:
        data = {"test": str(encode_random(tokenizer_folder, tmp_path / "test", data["test"]))}
    config = make_run(codes, tokenizer_folder, data={"source": str(codes), "held_out": 0.2} | data)
    with pytest.raises(ShardError, match=message):
        train_prior(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
