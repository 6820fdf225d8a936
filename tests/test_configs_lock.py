"""What every named config resolves to is what it was: no changed default changes an experiment.

`python tests/test_configs_lock.py` renews the lock, where a config is meant to change or is new.
"""

import hashlib
import json
from pathlib import Path

import pytest

from imagetok import configs
from imagetok.config import validate
from imagetok.durable import canonical_json
from imagetok.named_configs import Catalogue, NamedConfig
from imagetok.training.config import TokenizerRun
from prior.config import PriorRun

LOCK = Path(__file__).parent / "configs-lock.json"


def run_of(config: NamedConfig) -> TokenizerRun | PriorRun:
    section = TokenizerRun if config.tree["kind"] == "tokenizer" else PriorRun
    return validate(config.tree, section, config.name)


def hash_of(config: NamedConfig) -> str:
    """Of the resolved tree: every key, also those that are not in the file."""
    return hashlib.sha256(canonical_json(run_of(config).model_dump(mode="json"))).hexdigest()[:16]


def hashes(catalogue: Catalogue) -> dict[str, str]:
    """By name; an alias stands beside it, as it names a file of its own in old commands."""
    found: dict[str, str] = {}
    for config in catalogue:
        names = [name for name in (config.name, *config.aliases) if name not in found]
        found |= dict.fromkeys(names, hash_of(config)) if names else {}
    return dict(sorted(found.items()))


@pytest.fixture(scope="module")
def resolved() -> dict[str, str]:
    return hashes(configs())


def test_every_name_resolves_to_what_it_did(resolved):
    locked = json.loads(LOCK.read_text())
    changed = [name for name, value in locked.items() if resolved.get(name) != value]
    assert changed == [], "if that is meant: python tests/test_configs_lock.py"


def test_the_lock_holds_every_name(resolved):
    assert list(resolved) == list(json.loads(LOCK.read_text()))


if __name__ == "__main__":
    LOCK.write_text(json.dumps(hashes(configs()), indent=0) + "\n")
