"""Training outside the main thread, as from a notebook's or a server's worker thread."""

import threading
from pathlib import Path

from imagetok.config import load_config
from imagetok.durable import verify_folder
from imagetok.training.config import TokenizerRun
from imagetok.training.tokenizer import train_tokenizer

CONFIG = Path(__file__).parents[3] / "configs" / "digits" / "vqvae-ema.yaml"
SHORT = [
    "train.steps=2",
    "train.batch_size=8",
    "train.workers=1",  # its process sets signal handlers, too
    "train.trackers=[]",
    "tokenizer.network.width=8",
]


def test_training_works_in_another_thread(tmp_path):
    found, failed = {}, []

    def work():
        try:
            config = load_config(CONFIG, TokenizerRun, SHORT)
            found.update(train_tokenizer(config, tmp_path / "run", device="cpu"))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
    assert found["num_images"] > 0
    assert verify_folder(tmp_path / "run" / "tokenizer") == []
