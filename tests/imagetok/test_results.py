"""Results show themselves: one line a value in a terminal, a table and pictures in a notebook."""

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from imagetok.errors import ResourceError
from imagetok.optional import require
from imagetok.results import Result


@dataclass(frozen=True, repr=False)
class Measured(Result):
    mse: float
    name: str = "<b>"

    def title(self) -> str:
        return f"measures of {self.name}"

    def rows(self) -> Mapping[str, object]:
        return {"mse": self.mse, "codes used": 3}

    def pictures(self) -> Mapping[str, np.ndarray]:
        return {"a & b": np.arange(12, dtype=np.uint8).reshape(3, 4)}


def test_a_result_reads_as_a_title_and_a_line_a_value():
    assert repr(Measured(1 / 3)) == "measures of <b>\n  mse         0.333333\n  codes used  3"


def test_a_notebook_gets_escaped_text_and_every_pixel():
    page = Measured(0.5)._repr_html_()
    assert "&lt;b&gt;" in page and "<b>measures of <b>" not in page and "a &amp; b" in page
    encoded = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert encoded is not None
    picture = Image.open(io.BytesIO(base64.b64decode(encoded[1])))
    assert np.array_equal(np.asarray(picture), Measured(0.5).pictures()["a & b"])


def test_a_missing_extra_is_one_message_that_says_what_to_install():
    with pytest.raises(ResourceError, match=r"maps needs nothing_here.*imagetok\[x\]"):
        require("nothing_here.part", extra="x", purpose="drawing maps")
    assert require("json", extra="x", purpose="x").loads("1") == 1
