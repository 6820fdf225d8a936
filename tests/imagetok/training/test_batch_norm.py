"""The running statistics that processes average."""

from torch import nn

from imagetok.training.batch_norm import running_statistics


def test_the_running_statistics_are_the_stored_buffers_of_batch_norms() -> None:
    model = nn.Sequential(
        nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, track_running_stats=False),
        nn.BatchNorm2d(3),
    )  # fmt: skip
    found = running_statistics(model)
    assert [len(buffer) for buffer in found] == [1, 1, 3, 3]
    for buffer in found:
        buffer.zero_()
    for name, buffer in model.named_buffers():
        assert not buffer.any() if "running" in name else name.endswith("num_batches_tracked")


def test_a_model_without_batch_norms_has_none() -> None:
    assert running_statistics(nn.Conv2d(1, 1, 1)) == []
