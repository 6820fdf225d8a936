"""What the tests of code datasets share: a tokenizer, and encoding in one call."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from code_samples import make_images, make_tokenizer, small_plan

import imagetok
from imagetok.codes.encode import encode_dataset
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.tokenizers import Tokenizer

Encode = Callable[..., CodeDataset]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers") / "tiny"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def encode(tokenizer, tmp_path) -> Encode:
    """encode(count) -> the opened code dataset of so many random images."""

    def run(
        count: int, folder: str = "codes", labelled: bool = True, threads: int = 1, **changes
    ) -> CodeDataset:
        images = make_images(count, labelled)
        plan = small_plan(tokenizer, images, **changes)
        encode_dataset(tokenizer, images, tmp_path / folder, plan, threads=threads)
        return open_codes(tmp_path / folder)

    return run


@pytest.fixture
def start_python() -> Callable[..., subprocess.Popen[str]]:
    """Start Python with arguments, able to import imagetok as this process does."""

    def start(*arguments: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        root, tests = Path(imagetok.__file__).parent.parent, Path(__file__).parents[2]
        env = {
            **os.environ,
            **(env or {}),
            "PYTHONPATH": f"{root}:{tests}:{os.environ.get('PYTHONPATH', '')}",
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
