"""Every run of the tests draws the same examples, on one thread, and asks no Hub but its own."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
from hub_server import TOKEN, HubServer
from hypothesis import HealthCheck, settings

for profile, count in (("imagetok", 20), ("thorough", 60)):
    settings.register_profile(
        profile,
        derandomize=True,
        deadline=None,
        max_examples=count,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("imagetok")
torch.set_num_threads(1)
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "1",  # of processes that tests start
}
if sys.dont_write_bytecode:  # every process of the tests would compile every module again
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    sys.dont_write_bytecode = False
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session", autouse=True)
def kernels_of_its_own(tmp_path_factory) -> None:
    """What torch compiles is kept for one process: two that write one file disturb each other."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("inductor"))


@pytest.fixture
def hangups_count() -> Iterator[None]:
    """SIGHUP as a terminal sends it, also where the tests run under `nohup`, which ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def untyped() -> Iterator[None]:
    """Calls as users make them, without the type checks of the test run: for refusals."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch) -> Callable[[], Path]:
    """fresh_cache(): from here on, huggingface_hub knows nothing of earlier downloads."""
    from huggingface_hub import constants

    def change() -> Path:
        cache = Path(tempfile.mkdtemp(prefix="hub-", dir=tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        return cache

    return change


@pytest.fixture
def log_in(monkeypatch) -> Callable[[str | None], None]:
    """log_in(token): whom the Hub sees; None is nobody."""

    def change(token: str | None) -> None:
        if token is None:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        else:
            monkeypatch.setenv("HF_TOKEN", token)

    return change


@pytest.fixture
def hub(tmp_path, monkeypatch, fresh_cache, log_in) -> Iterator[HubServer]:
    """A Hub of our own, that huggingface_hub speaks to as ann, with an empty cache."""
    import huggingface_hub
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _detect_agent, _http

    with HubServer() as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in [
            ("ENDPOINT", server.url),
            ("HUGGINGFACE_CO_URL_TEMPLATE", template),
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_TOKEN_PATH", str(tmp_path / "no-token")),
            ("HF_STORED_TOKENS_PATH", str(tmp_path / "no-tokens")),
            ("AGENT_HARNESSES_PATH", str(tmp_path / "harnesses.json")),
        ]:
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(_detect_agent, "_registry", None)
        for module in (_http, file_download):  # the library waits seconds before it tries again
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=server.waits.append))
        monkeypatch.setenv("NO_PROXY", "*")
        fresh_cache()
        log_in(TOKEN)
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()
        assert server.unexpected == []
