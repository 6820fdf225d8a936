"""A missing or tiny /dev/shm, and a killed loader worker: one message at once, with a way out."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import shared_memory
import torch
from disk_faults import in_fork

from cli.main import _explain, _run
from imagetok.data import ArrayImages
from imagetok.data.loader_workers import begin
from imagetok.data.substitutes import SubstitutedImages
from imagetok.errors import ResourceError
from imagetok.images import ImageContract
from imagetok.training.batch_order import MicroBatches, batch_loader

CONFIG = Path(__file__).parents[3] / "configs" / "digits" / "edvae.yaml"
TRAIN = (
    "tokenizer.network.width=8 tokenizer.quantizer.num_codes=16 train.steps=6 train.trackers=[] "
    "train.evaluate_every=6 train.checkpoint_every=3 train.log_every=1 train.batch_size=512"
)


@pytest.fixture(scope="module")
def namespaces() -> None:
    if sys.platform != "linux" or not shared_memory.is_allowed(in_fork):
        pytest.skip("mount namespaces are not allowed here")


def train(run: Path, kind: str, *more: str) -> tuple[int, str]:
    """(exit code, what was said) of a training in a process with such a /dev/shm."""
    said = run.with_suffix(".log")
    words = ["train", str(CONFIG), "--out", str(run), "--device", "cpu"]
    words += [w for one in (*TRAIN.split(), *more) for w in ("--set", one)]

    def work() -> None:
        descriptor = os.open(said, os.O_CREAT | os.O_WRONLY)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        shared_memory.enter(kind)
        code = _run(words)
        sys.stdout.flush()
        os._exit(100 + code)

    return in_fork(work) - 100, said.read_text()


def first_batch() -> Any:
    contract = ImageContract(mode="grey", height=64, width=64)
    images = torch.zeros(40, 1, 64, 64, dtype=torch.uint8)
    dataset = ArrayImages(images, name="zeros", split="train", contract=contract)
    order = MicroBatches(40, 40, seed=0)
    return next(begin(batch_loader(SubstitutedImages(dataset, 0), order, 1, pin_memory=False)))


def test_a_batch_without_room_is_a_refusal_at_once(namespaces) -> None:
    def work() -> None:
        shared_memory.enter("tiny")
        found = first_batch()
        assert isinstance(found, ResourceError)
        assert "/dev/shm" in str(found) and "train.workers=0" in str(found)

    assert in_fork(work) == 0


def test_a_killed_worker_is_no_bug_of_ours(monkeypatch) -> None:
    def killed(self: ArrayImages, indices: list[int]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ArrayImages, "read", killed)
    with pytest.raises(RuntimeError) as caught:
        first_batch()
    message, code = _explain(caught.value)
    assert code == 5 and "a loader worker was killed" in message and "train.workers=0" in message


@pytest.mark.slow
@pytest.mark.parametrize("kind", shared_memory.SMALL)
def test_training_is_refused_with_workers_and_works_without(
    tmp_path: Path, kind: str, namespaces
) -> None:
    code, said = train(tmp_path / "two", kind, "train.workers=2")
    assert code == 5, said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "/dev/shm" in error and "train.workers=0" in error and "Traceback" not in said, said
    code, said = train(tmp_path / "none", kind, "train.workers=0")
    assert code == 0, said
