"""The search for a batch size, and halving it when memory runs out: functions of what they call."""

import pytest
import torch

from imagetok.batch_size import FittingBatches, chosen_size, fastest_size


def rates(table: dict[int, float], seen: list[int]):
    """A device with these rates by size, and no memory for any other size."""

    def rate(size: int) -> float:
        seen.append(size)
        if size not in table:
            raise torch.OutOfMemoryError
        return table[size]

    return rate


CASES = {
    "grows to where doubling gains little": ({64: 100, 128: 190, 256: 300, 512: 310}, 256),
    "grows to the largest size": ({64: 100, 128: 200, 256: 400, 512: 800, 1024: 1600}, 1024),
    "stays where doubling is slower": ({64: 100, 128: 90, 256: 900}, 64),
    "ends where memory does": ({64: 100, 128: 200}, 128),
    "halves what does not fit": ({16: 50, 8: 40}, 16),
    "halves down to one image": ({1: 1}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_size(case):
    table, expected = CASES[case]
    seen: list[int] = []
    assert fastest_size(rates({k: float(v) for k, v in table.items()}, seen), 64, 1024) == expected
    assert len(seen) == len(set(seen)), "no size is tried twice"


def test_no_size_above_the_most_is_tried():
    seen: list[int] = []
    assert fastest_size(rates(dict.fromkeys(range(1, 99), 1.0), seen), 64, 48) == 48
    assert seen == [48]


def test_a_device_without_room_for_one_image_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        fastest_size(rates({}, []), 64, 1024)


def test_a_cpu_has_its_usual_size_and_tries_none():
    def refuse(size: int) -> None:
        raise AssertionError(size)

    assert chosen_size("work", 64, torch.device("cpu"), refuse, 1024) == 64


class Device:
    """Doubles numbers, at most `room` at once."""

    def __init__(self, room: int):
        self.room = room
        self.sizes: list[int] = []

    def compute(self, numbers: torch.Tensor, part: slice) -> list[torch.Tensor]:
        given = numbers[part]
        if len(given) > self.room:
            raise torch.OutOfMemoryError
        self.sizes.append(len(given))
        return [2 * given, -given]


@pytest.mark.parametrize("room", [1, 2, 3, 5, 8, 20])
def test_results_do_not_depend_on_the_memory(room, caplog):
    device, batches = Device(room), FittingBatches("work", 8)
    for count in (8, 5, 8, 0):
        numbers = torch.arange(count)
        twice, negative = batches.compute(lambda p, n=numbers: device.compute(n, p), count)
        assert torch.equal(twice, 2 * numbers) and torch.equal(negative, -numbers)
    assert max(device.sizes) <= room and (batches.size == 8) == (room >= 8)
    halvings = 0 if room >= 8 else 3 if room == 1 else 2 if room < 4 else 1
    assert len([m for m in caplog.messages if "out of memory" in m]) == halvings


def test_one_image_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        device = Device(0)
        FittingBatches("work", 4).compute(lambda p: device.compute(torch.arange(4), p), 4)
