"""Batches that loader workers read are those that this process reads, in their order."""

import multiprocessing
import os
import signal
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from cli.main import _explain
from imagetok.data import ArrayImages, loader_workers
from imagetok.data.base import ImageBatch
from imagetok.data.image_decoding import ImageError
from imagetok.data.loader_workers import read_ahead, workers_for
from imagetok.data.subset import FirstImages
from imagetok.data.views import views_of
from imagetok.errors import ResourceError
from imagetok.images import ImageContract

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PIECES = [range(0, 3), range(3, 4), range(4, 4), range(2, 7)]


def images() -> ArrayImages:
    contract = ImageContract(mode="grey", height=2, width=2)
    pixels = torch.arange(28, dtype=torch.uint8).reshape(7, 1, 2, 2)
    return ArrayImages(pixels, name="x", split="train", contract=contract)


def damaged(indices: Sequence[int]) -> Tensor:
    if 3 in indices:
        raise ImageError("d.png: truncated", "d.png", "truncated")
    return torch.tensor(list(indices))


def killed(indices: Sequence[int]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def broken(indices: Sequence[int]) -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_and_their_order_do_not_depend_on_the_workers(workers):
    dataset = images()
    found = list(read_ahead(dataset.read, PIECES, workers, CPU))
    assert [batch.indices.tolist() for batch in found] == [list(piece) for piece in PIECES]
    assert all(torch.equal(batch.images, dataset.images[batch.indices]) for batch in found)
    assert all(isinstance(batch, ImageBatch) for batch in found)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_raised_in_its_place_with_its_path(workers):
    batches = read_ahead(damaged, PIECES, workers, CPU)
    assert next(batches).tolist() == [0, 1, 2]
    with pytest.raises(ImageError, match=r"^d\.png: truncated$") as caught:
        next(batches)
    assert (str(caught.value.path), caught.value.reason) == ("d.png", "truncated")


def test_a_killed_worker_is_one_message():
    with pytest.raises(ResourceError, match="loader worker was killed") as caught:
        list(read_ahead(killed, PIECES, 1, CPU))
    message, code = _explain(caught.value)
    assert code == 5 and "--workers 0" in message


def test_a_bug_in_a_worker_is_no_killed_worker():
    with pytest.raises(RuntimeError, match="a bug"):
        list(read_ahead(broken, PIECES, 1, CPU))


def test_closing_ends_the_workers():
    batches = read_ahead(damaged, PIECES[:1] * 50, 2, CPU)
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) >= 2
    batches.close()
    for worker in workers:
        worker.join(60)  # one that is slow to end is terminated
    assert not any(worker.is_alive() for worker in workers)


def test_workers_are_for_images_that_are_decoded_and_for_gpus(monkeypatch):
    monkeypatch.setattr(loader_workers, "usable_cpus", lambda: 8)
    plain = images()
    decoded = images()
    decoded.is_decoded_when_read = True
    assert workers_for(plain, GPU) == workers_for(decoded, CPU) == 0
    assert workers_for(decoded, GPU) == 7 == workers_for(FirstImages(decoded, 3), GPU)
    assert workers_for(views_of(decoded, 2, decoded.contract), GPU) == 7
    assert workers_for(plain, CPU, 2) == workers_for(decoded, GPU, 2) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert workers_for(decoded, GPU) == 1
    monkeypatch.setattr(loader_workers, "usable_cpus", lambda: 1)
    assert workers_for(decoded, GPU) == 0


def test_a_number_of_workers_that_would_fill_the_memory_is_not_started(caplog, monkeypatch):
    monkeypatch.setattr(loader_workers, "usable_cpus", lambda: 1)
    dataset = images()
    found = [batch.indices.tolist() for batch in read_ahead(dataset.read, PIECES, 2000, CPU)]
    assert found == [list(piece) for piece in PIECES]
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "expected at most 1, because this process may use 1 CPU, found 2000; set " in warning
    assert warning.endswith("; only 8 are started")
