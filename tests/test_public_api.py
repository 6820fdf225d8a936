import subprocess
import sys

import imagetok
import prior

PUBLIC = [
    "Autoencoder",
    "CodeDataset",
    "Codes",
    "ImageContract",
    "ImagetokError",
    "Quantizer",
    "Tokenizer",
    "TokenizerConfig",
    "build_tokenizer",
    "configs",
    "load_config",
    "open_codes",
    "open_images",
    "parse_spec",
]


def test_the_public_names_are_pinned_and_exist():
    assert sorted(imagetok.__all__) == PUBLIC
    assert all(getattr(imagetok, name) is not None for name in PUBLIC)
    assert prior.__all__ == ["Prior"]
    assert prior.Prior.__name__ == "Prior"


def test_importing_the_packages_is_light():
    code = "import imagetok, prior, cli.main, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
