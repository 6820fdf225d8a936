"""An adversary in training: its two halves of a step, resuming, and what it says of itself."""

import json
import logging
import random
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from test_processes import run as run_processes
from test_resume import assert_same_run, checkpoint, start, tree, wait_for_step, write_config
from torch import nn
from torch.testing import assert_close

import imagetok
from imagetok.config import apply_overrides, validate
from imagetok.errors import ConfigError
from imagetok.seeding import reseed_global
from imagetok.training.adversarial_losses import LeCAM, discriminator_loss
from imagetok.training.adversary import Adversary, Balance, Discriminator, adaptive_factor
from imagetok.training.config import AdversarialConfig, TokenizerRun
from imagetok.training.step_output import Judged, StepOutput
from imagetok.training.tokenizer import estimate_tokenizer, train_tokenizer

CONSTANT = {"kind": "constant", "value": 0.1}
SECTION = {
    "weight": CONSTANT,
    "learning_rate": {"kind": "constant", "value": 1e-3},
    "width": 4,
    "layers": 1,
    "lecam": 0.5,
    "lecam_decay": 0.5,
}


def section(**keys: object) -> AdversarialConfig:
    return validate(SECTION | keys, AdversarialConfig, "test")


def discriminator(config: AdversarialConfig) -> Discriminator:
    reseed_global(0)
    return Discriminator(config, 3)


def adversary(config: AdversarialConfig, last: torch.Tensor | None = None) -> Adversary:
    accelerator = Accelerator(cpu=True)
    last = torch.ones(1) if last is None else last
    return Adversary(config, discriminator(config), accelerator, last)


def output(count: int = 4, seed: int = 0) -> StepOutput:
    """The output of a model whose last layer is a bias a channel."""
    images, x = torch.rand(2, count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    last = nn.Parameter(torch.zeros(3, 1, 1))
    x_hat = x + last
    loss = (x_hat - images).square().mean()
    judged = Judged(images, x_hat, loss)
    return StepOutput(loss, {"mse": loss}, {}, {}, judged=judged)


def test_its_judgement_reaches_the_reconstructions_alone():
    config = section(loss="hinge")
    opponent, plain = adversary(config), output()
    assert plain.judged is not None
    opposed = opponent.opposed(plain, 0.3)
    logits = discriminator(config)(plain.judged.x_hat)
    assert_close(opposed.loss, plain.loss - 0.3 * logits.mean())
    (found,) = torch.autograd.grad(opposed.loss - plain.loss, plain.judged.x_hat, retain_graph=True)
    (expected,) = torch.autograd.grad(-0.3 * logits.mean(), plain.judged.x_hat)
    assert_close(found, expected)
    plain.loss.backward(retain_graph=True)
    opposed.loss.backward()
    assert all(p.grad is None for p in opponent._bare.parameters())


def learnt_by_hand(
    config: AdversarialConfig, given: StepOutput
) -> tuple[Discriminator, torch.Tensor]:
    model = discriminator(config)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.5, 0.9), weight_decay=0)
    assert given.judged is not None
    real, fake = model(given.judged.images), model(given.judged.x_hat.detach())
    loss = discriminator_loss(config.loss, real, fake)
    (loss + config.lecam * LeCAM(config.lecam_decay)(real, fake)).backward()
    optimizer.step()
    return model, loss


@pytest.mark.parametrize("loss", ["hinge", "non-saturating"])
def test_it_learns_from_detached_pairs(loss):
    config, given = section(loss=loss), output()
    opponent = adversary(config)
    opponent.begin(0, is_logged=False)
    (learnt,) = opponent.learn([given.detach()])
    model, expected = learnt_by_hand(config, given)
    assert_close(learnt.metrics["discriminator_loss"], expected.detach())
    assert learnt.judged is None and "mse" in learnt.metrics
    for name, value in model.named_parameters():
        assert_close(opponent.state()[name], value.detach(), msg=name)


def test_micro_batches_teach_what_one_batch_does():
    config, whole = section(), output(4)
    assert whole.judged is not None
    halves = [
        whole._replace(
            judged=Judged(*(t[i : i + 2] if t.ndim else t for t in whole.judged))
        ).detach()
        for i in (0, 2)
    ]
    states = []
    for outputs in ([whole.detach()], halves):
        opponent = adversary(config)
        opponent.begin(0, is_logged=False)
        opponent.learn(outputs)
        states.append(opponent.state())
    for name, value in states[0].items():
        assert_close(states[1][name], value, msg=name)


def test_averages_of_its_logits_are_part_of_its_state():
    opponent = adversary(section())
    opponent.note({"real_logit": torch.tensor(2.0), "fake_logit": torch.tensor(-4.0)})
    assert_close(opponent.state()["lecam.averages"], torch.tensor([1.0, -2.0]))


def test_an_adaptive_weight_makes_both_gradients_equal():
    last = nn.Parameter(torch.zeros(3, 1, 1))
    images, x = torch.rand(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    loss = (x + last - images).square().mean()
    given = StepOutput(loss, {}, {}, {}, judged=Judged(images, x + last, loss))
    found = adversary(section(adaptive=True), last).opposed(given, 1.0)
    by_part = [
        torch.autograd.grad(part, last, retain_graph=True)[0].norm()
        for part in (loss, found.loss - loss)
    ]
    names = ("gradient_reconstruction", "gradient_adversarial", "adversarial_weight")
    one, other, weight = (found.metrics[name] for name in names)
    assert_close(weight, one / (other + 1e-4))
    assert_close(by_part[0], one)
    assert_close(by_part[1], one * other / (other + 1e-4))


def test_an_adaptive_weight_has_limits():
    one, none = torch.tensor(1.0), torch.tensor(0.0)
    assert adaptive_factor(one, none) == 1e4 and adaptive_factor(none, one) == 0


def config(adversarial: dict[str, object] | None, seed: int = 3, **train: object) -> TokenizerRun:
    whole = tree(**train) | {"seed": seed}
    whole["objective"]["adversarial"] = None if adversarial is None else SECTION | adversarial
    return validate(whole, TokenizerRun, "test")


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def everything(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, those of the discriminator included."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= {f"{path.stem}.{k}": v for k, v in load_file(path).items()}
    for path in folder.glob("optimizer*.bin"):
        state = torch.load(path, weights_only=True)["state"]
        found |= {f"{path.stem}.{i}.{k}": v for i, vs in state.items() for k, v in vs.items()}
    assert any(name.startswith("model_1.") for name in found)
    return found


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("keys", [{}, {"adaptive": True}, {"start": 3}], ids=str)
def test_a_run_resumes_bit_identically(tmp_path, keys):
    """With micro-batches, dropout, clipping and a moving average."""
    train_tokenizer(config(keys, steps=6), tmp_path / "whole")
    expected = everything(tmp_path / "whole", 6)
    for stop in (2, 5):
        run = tmp_path / f"stop{stop}"
        train_tokenizer(config(keys, steps=stop), run)
        train_tokenizer(config(keys, steps=6), run, resume=True)
        assert_equal(everything(run, 6), expected)
        found = load_file(run / "discriminator.safetensors")
        assert_equal(found, load_file(tmp_path / "whole" / "discriminator.safetensors"))


def test_a_lost_or_damaged_discriminator_is_noticed_and_written_again(tmp_path):
    run, make = tmp_path / "run", partial(config, {}, steps=2)
    train_tokenizer(make(), run)
    path = run / "discriminator.safetensors"
    whole = path.read_bytes()
    assert imagetok.verify(run).is_good
    path.write_bytes(whole[:-1])
    assert "its sha256 differs" in imagetok.verify(run).faults[0]
    path.unlink()
    assert "discriminator.safetensors: missing" in imagetok.verify(run).faults[0]
    train_tokenizer(make(), run, resume=True)
    assert path.read_bytes() == whole and imagetok.verify(run).is_good


def test_its_learning_rate_may_change_when_a_run_goes_on(tmp_path):
    train_tokenizer(config({}, steps=2), tmp_path / "run")
    slower = {"learning_rate": {"kind": "constant", "value": 1e-5}}
    train_tokenizer(config(slower, steps=4), tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=r"objective.adversarial.start"):
        train_tokenizer(config({"start": 2}, steps=6), tmp_path / "run", resume=True)


def test_a_start_after_the_end_is_warned_of(caplog, tmp_path):
    train_tokenizer(config({"start": 3}, steps=2), tmp_path / "run")
    assert "objective.adversarial.start is 3, but train.steps is only 2" in caplog.text


def test_a_dry_run_measures_steps_with_it(monkeypatch):
    steps: list[int] = []
    learn = Adversary.learn
    monkeypatch.setattr(
        Adversary, "learn", lambda self, outputs: steps.append(1) or learn(self, outputs)
    )
    estimate_tokenizer(config({"start": 1000}, steps=2000), device="cpu")
    assert len(steps) >= 5


def test_before_its_start_a_run_is_one_without_it(tmp_path):
    train_tokenizer(config({"start": 4}, steps=6), tmp_path / "late")
    train_tokenizer(config(None, steps=6), tmp_path / "without")
    late, without = records(tmp_path / "late"), records(tmp_path / "without")
    until = [record for record in late if record["step"] <= 4]
    assert until == [record for record in without if record["step"] <= 4]
    names = {"adversarial", "discriminator_loss", "real_logit", "gradient_adversarial"}
    assert names <= late[-2].keys() | late[-3].keys() and not names & until[-1].keys()
    states = [everything(tmp_path / "late", 4)[f"model_1.{name}"] for name in ("network.0.weight",)]
    assert_close(states[0], discriminator_of_run())


def discriminator_of_run() -> torch.Tensor:
    """What the discriminator of these runs starts with."""
    reseed_global(3, "discriminator")
    return Discriminator(section(), 1).network[0].weight.detach()


def test_a_weight_of_zero_changes_nothing_of_the_model(tmp_path):
    zero = {"weight": {"kind": "constant", "value": 0}}
    train_tokenizer(config(zero, steps=4), tmp_path / "zero")
    train_tokenizer(config(None, steps=4), tmp_path / "without")
    assert_equal(checkpoint(tmp_path / "zero", 4), checkpoint(tmp_path / "without", 4))


def test_bf16_resumes_bit_identically(tmp_path):
    make = partial(config, {}, precision="bf16")
    train_tokenizer(make(steps=4), tmp_path / "whole")
    train_tokenizer(make(steps=2), tmp_path / "halves")
    train_tokenizer(make(steps=4), tmp_path / "halves", resume=True)
    assert_equal(everything(tmp_path / "halves", 4), everything(tmp_path / "whole", 4))


@pytest.mark.slow  # starts processes and kills them
def test_a_run_that_is_killed_at_random_steps_ends_as_one_that_was_not(tmp_path):
    path = write_config(tmp_path, partial(config, {"start": 5}))
    whole = start(path, tmp_path / "whole")
    draw, killed = random.Random(0), start(path, tmp_path / "killed")
    for step in sorted(draw.sample(range(8, 55), 3)):
        wait_for_step(tmp_path / "killed", step, killed)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        killed = start(path, tmp_path / "killed", "--resume")
    assert killed.wait() == 0, killed.communicate()
    assert whole.wait() == 0, whole.communicate()
    assert_same_run(tmp_path / "whole", tmp_path / "killed", 60)
    assert_equal(everything(tmp_path / "whole", 60), everything(tmp_path / "killed", 60))


ADVERSARIAL = ("--set", f"objective.adversarial={json.dumps(SECTION)}")


@pytest.mark.slow  # starts processes
def test_two_processes_and_micro_batches_teach_it_what_one_batch_does(tmp_path):
    halves = ("--set", "train.accumulation=2")
    states = {}
    for name, processes, more in (("one", 1, ()), ("two", 2, ()), ("quarters", 2, halves)):
        steps = ("--set", "train.steps=10")
        done = run_processes(tmp_path / name, processes, *ADVERSARIAL, *steps, *more)
        assert done.returncode == 0, done.stderr
        states[name] = everything(tmp_path / name, 10)
    learnt = [name for name in states["one"] if name.startswith("model_1.")]
    assert len(learnt) > 5
    for other in ("two", "quarters"):
        for name in learnt:
            assert_close(states[other][name], states["one"][name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow  # starts processes
def test_two_processes_resume_bit_identically(tmp_path):
    for name, steps in (("whole", [20]), ("halves", [10, 20])):
        for until in steps:
            more = ("--set", f"train.steps={until}", "--resume")
            done = run_processes(tmp_path / name, 2, *ADVERSARIAL, *more)
            assert done.returncode == 0, done.stderr
    assert_equal(everything(tmp_path / "halves", 20), everything(tmp_path / "whole", 20))


def test_it_says_once_when_it_has_won_or_lost(caplog):
    caplog.set_level(logging.WARNING)
    balance = Balance()
    balance.note({})
    for accuracy in 60 * [1.0] + 60 * [0.75] + 60 * [0.5] + 60 * [1.0]:
        balance.note({"discriminator_accuracy": accuracy})
    said = [record.message.split(":")[0] for record in caplog.records]
    won, lost = "the discriminator has won", "the discriminator has lost"
    assert said == [won, lost, won]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"objective.adversarial.layers": 2}, r"layers: 2 need images of at least 12 x 12 pixels"),
        ({"train.precision": "fp16"}, r"objective.adversarial: expected null with fp16"),
        ({"train.cuda_graphs": True, "train.accumulation": 1}, r"null with train.cuda_graphs"),
    ],
)
def test_runs_that_can_have_none_are_refused(overrides, says):
    whole = apply_overrides(config({}).model_dump(mode="json"), overrides)
    with pytest.raises(ConfigError, match=says):
        validate(whole, TokenizerRun, "test")
