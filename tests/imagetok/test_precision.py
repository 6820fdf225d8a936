"""The arithmetic that settings promise is the one that torch is set to, and only while needed."""

import threading

import pytest
import torch

from imagetok.errors import ConfigError
from imagetok.precision import (
    check_precision,
    deterministic_algorithms,
    encoding_precision,
    full_float32,
    has_tf32,
    tf32,
)

FULL, TF32 = ("ieee", "ieee", "ieee"), ("tf32", "tf32", "ieee")


def products() -> tuple[str, str, str]:
    backends = torch.backends
    settings = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.matmul)
    return tuple(setting.fp32_precision for setting in settings)


def determinism() -> tuple[bool, bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def test_float32_is_full_inside_and_as_before_outside():
    before = products()
    with full_float32():
        assert products() == FULL
        with full_float32():
            assert products() == FULL
        assert products() == FULL
    assert products() == before
    with pytest.raises(RuntimeError, match="inside"), full_float32():
        raise RuntimeError("inside")
    assert products() == before


def test_full_float32_inside_tf32():
    before = products()
    with tf32():
        assert products() == TF32
        with full_float32():
            assert products() == FULL
        assert products() == TF32
    assert products() == before


def test_float32_stays_full_until_the_last_thread_has_left():
    """The first to leave would otherwise switch TF32 on under the other one."""
    before, inside, left = products(), threading.Event(), threading.Event()
    seen = []

    def other():
        with full_float32():
            inside.set()
            assert left.wait(20)
            seen.append(products())

    thread = threading.Thread(target=other)
    with full_float32():
        thread.start()
        assert inside.wait(20)
    left.set()
    thread.join()
    assert seen == [FULL]
    assert products() == before


def test_determinism_is_given_back():
    before = determinism()
    with deterministic_algorithms():
        assert determinism() == (True, False, False, False)
    assert determinism() == before
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with deterministic_algorithms():
            assert determinism()[:2] == (True, False)
        assert determinism()[:2] == (True, True)
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def test_tf32_is_refused_on_a_cpu():
    assert not has_tf32(torch.device("cpu"))
    with (
        pytest.raises(ConfigError, match=r"precision: tf32 needs a GPU.*; use float32 or bfloat16"),
        encoding_precision("tf32", torch.device("cpu")),
    ):
        pass


def test_an_autocast_outside_has_no_effect_inside():
    layer, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    cpu = torch.device("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        with encoding_precision("float32", cpu):
            assert layer(x).dtype == torch.float32
        assert layer(x).dtype == torch.bfloat16
    with encoding_precision("bfloat16", cpu):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.usefixtures("untyped")
def test_an_unknown_precision_is_refused():
    with (
        pytest.raises(ConfigError, match="precision: expected 'float32', 'tf32' or 'bfloat16'"),
        encoding_precision("float16", torch.device("cpu")),
    ):
        pass


@pytest.mark.usefixtures("untyped")
def test_a_name_of_training_is_translated():
    with pytest.raises(ConfigError, match="found 'fp32'; it is 'float32' here"):
        check_precision("fp32")
