"""Training codes that are kept on the device: the same batches, and the same prior."""

import torch
from device_waits import GPU, DeviceWaits, fake_tensors
from test_prior_training import codes_folder, make_run  # noqa: F401

from imagetok.codes.reader import CodeBatch, open_codes
from imagetok.config import dump_yaml
from prior.resident_codes import ResidentCodes, make_resident_codes
from prior.training import CodeSubset, train_prior

CPU = torch.device("cpu")


def test_batches_are_those_that_are_read(codes_folder):  # noqa: F811
    dataset = open_codes(codes_folder)
    source = CodeSubset(dataset, range(len(dataset) - 1, 0, -1))
    kept = make_resident_codes(source, CPU, "always")
    assert kept is not None and len(kept) == len(source) and kept.identity() == source.identity()
    for indices in ([0], [5, 5, 2, len(source) - 1]):
        expected, found = source.__getitems__(indices), kept.__getitems__(indices)
        pairs = zip((*found.codes, *found[1:]), (*expected.codes, *expected[1:]), strict=True)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def test_a_cpu_keeps_none_unless_asked(codes_folder):  # noqa: F811
    source = CodeSubset(open_codes(codes_folder), range(4))
    assert make_resident_codes(source, CPU, "auto") is None
    assert make_resident_codes(source, CPU, "never") is None


def test_a_batch_is_gathered_without_waiting(codes_folder):  # noqa: F811
    source = CodeSubset(open_codes(codes_folder), range(6))
    with fake_tensors():
        codes = torch.zeros(6, 2, 3, dtype=torch.int32, device=GPU)
        numbers = torch.zeros(6, dtype=torch.int64, device=GPU)
        kept = ResidentCodes(source, CodeBatch((codes,), numbers, numbers))
        with DeviceWaits():
            batch = kept.__getitems__([4, 4, 1])
    assert batch.codes[0].shape == (3, 2, 3) and batch.codes[0].dtype == torch.int64


def test_a_run_is_the_same_with_codes_kept(codes_folder, tokenizer_folder, tmp_path):  # noqa: F811
    weights = []
    for resident in ("never", "always"):
        config = make_run(codes_folder, tokenizer_folder, resident=resident)
        train_prior(config, tmp_path / resident, device="cpu")
        weights.append((tmp_path / resident / "prior" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_the_default_is_left_out_of_configs(codes_folder, tokenizer_folder):  # noqa: F811
    assert "resident" not in dump_yaml(make_run(codes_folder, tokenizer_folder))
    other = make_run(codes_folder, tokenizer_folder, resident="never")
    assert "resident: never" in dump_yaml(other)
