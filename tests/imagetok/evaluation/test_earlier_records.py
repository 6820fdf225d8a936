"""Records that an earlier version wrote: read, and never compared with another meaning."""

import json
from pathlib import Path
from typing import Any

import pytest

from imagetok.data import DigitsConfig, ImageDataset, open_images
from imagetok.errors import ConfigError, InputError
from imagetok.evaluation.original_vgg import PREPROCESSING
from imagetok.evaluation.records import MeasureRecord, identity_of, read_record, side_by_side
from imagetok.images import ImageContract


@pytest.fixture
def digits() -> ImageDataset:
    return open_images(DigitsConfig(), "test", ImageContract(mode="grey", height=8, width=8))


def stored(folder: Path, identity: dict[str, Any], **measures: float) -> MeasureRecord:
    path = folder / "record.json"
    path.write_text(json.dumps({"subject": {}, "identity": identity, "measures": measures}))
    return read_record(path)


def test_a_score_over_other_parts_is_refused(digits, tmp_path):
    now = identity_of("samples", digits, 100, [])
    then = {name: value for name, value in now.items() if name != "score_parts"}
    new = stored(tmp_path, now, inception_score=2.0)
    earlier = stored(tmp_path, then, inception_score=2.0)
    with pytest.raises(ConfigError, match="measured differently: score_parts: 'contiguous', none"):
        side_by_side({"new": new, "earlier": earlier})


def test_precision_in_another_network_is_refused(digits, tmp_path):
    identity = identity_of("reconstructions", digits, 100, [])
    network = {"network": "vgg16", "network_sha256": "0" * 64, "preprocessing": PREPROCESSING}
    torchvisions = network | {"network_sha256": "1" * 64, "preprocessing": "ImageClassification()"}
    new, earlier = (
        stored(tmp_path, identity | {"networks": {"vgg16": one}}, rprecision=0.5)
        for one in (network, torchvisions)
    )
    with pytest.raises(ConfigError, match=r"networks\.vgg16\.preprocessing"):
        side_by_side({"new": new, "earlier": earlier})


def test_a_perplexity_of_other_batches_has_a_row_of_its_own(digits, tmp_path):
    identity = identity_of("reconstructions", digits, len(digits), [])
    new = stored(
        tmp_path, identity, num_images=180, perplexity_batch128=3.0, perplexity_batch32=2.0
    )
    earlier = stored(tmp_path, identity, num_images=180, perplexity_batch128=2.5)
    assert side_by_side({"new": new, "earlier": earlier}) == {
        "num_images": {"new": 180, "earlier": 180},
        "perplexity_batch128": {"new": 3.0},
        "perplexity_batch32": {"new": 2.0},
        "perplexity_batch128_all": {"earlier": 2.5},
    }


@pytest.mark.parametrize("measures", [[1, 2], "mse", None, {"mse": "0.1"}])
def test_other_content_than_measures_is_refused(tmp_path, measures):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"subject": {}, "identity": {}, "measures": measures}))
    with pytest.raises(
        InputError, match=r"record\.json: (expected finite|measures: mse: expected)"
    ):
        read_record(path)
