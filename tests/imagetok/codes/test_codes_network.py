"""Datasets on servers that want a password, a signature, or too much patience."""

import io
import logging
import shutil
import tarfile
import time
from pathlib import Path

import fsspec
import pytest
from code_samples import make_images, small_plan
from PIL import Image
from shard_server import ShardServer

from cli.main import _run
from imagetok.codes import storage
from imagetok.codes.dataset_commit import commit_plan
from imagetok.codes.encode import encode_dataset
from imagetok.codes.reader import open_codes
from imagetok.data import open_images
from imagetok.data.config import WebDatasetConfig
from imagetok.errors import ConfigError, ResourceError
from imagetok.images import ImageContract
from imagetok.inspection import describe
from imagetok.io import timeouts

USER, SIGNATURE = "me:p@ss/word", "Signature=abc%2Fdef"
SECRETS = ("p@ss", "p%40ss", "abc/def", "abc%2Fdef", "Signature")


@pytest.fixture(scope="module")
def dataset(tokenizer, tmp_path_factory) -> Path:
    images, folder = make_images(10), tmp_path_factory.mktemp("intact")
    encode_dataset(tokenizer, images, folder, small_plan(tokenizer, images), threads=1)
    return folder


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(storage, "_RETRY_AFTER", ())


def with_secrets(server: ShardServer) -> str:
    return f"{server.url.replace('://', '://me:p%40ss%2Fword@')}?{SIGNATURE}"


def write_tar(path: Path, *pictures: bytes) -> None:
    with tarfile.open(path, "w") as tar:
        for i, data in enumerate(pictures):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (6, 6), number).save(file, "PNG")
    return file.getvalue()


def test_codes_behind_a_password_are_read(dataset):
    with ShardServer(dataset, USER) as server:
        remote = open_codes(with_secrets(server))
        assert len(remote) == 10
        assert remote[3].codes[0].tolist() == open_codes(dataset)[3].codes[0].tolist()
        assert {query for query in server.queries} == {SIGNATURE}
        with pytest.raises(ResourceError) as refused:
            open_codes(with_secrets(server).replace("p%40ss", "p%40ssed"))
    assert "401" in str(refused.value)
    assert not any(secret in str(refused.value) for secret in SECRETS)


def test_a_password_goes_to_no_other_server(dataset):
    """Not where its own server sends the reader."""
    with ShardServer(dataset, USER) as server, ShardServer(dataset) as other:
        server.faults["plan.json"] = [f"{other.url}/plan.json"]
        open_codes(with_secrets(server))
        assert server.logins[0] is not None
        assert other.requests["plan.json"] == 1 and other.logins == [None]


def check_no_secret_is_left(place: str, tokenizer: Path, out: Path, capsys, caplog) -> None:
    """Encode a tar of two pictures and a damaged one at a URL with secrets; refuse all others."""
    spec = f"webdataset,shards={place}"
    words = ["encode", "--tokenizer", str(tokenizer), "--max-skip", "1", "--shards"]
    with caplog.at_level(logging.DEBUG, "imagetok"):
        assert _run([*words, str(out), "--data", spec]) == 4
        assert _run([*words, str(out), "--data", spec]) == 4  # goes on
        for wrong, code in [
            (spec.replace("p%40ss", "p%40zz"), 5),
            (spec.replace("a.tar", "b.tar"), 5),
            (f"webdataset,shards=ftp{place[place.index('://') :]}", 2),
            (f"{spec}{{0..9999999}}", 2),
            (f"{spec}{{", 2),
            (f"{spec},label", 2),
            (f"{spec},image=x", 3),
            (f"{spec},test={place}", 2),
            (spec[len("webdataset,") :], 2),
        ]:
            assert _run([*words, str(out / "none"), "--data", wrong]) == code, wrong
    told = capsys.readouterr()
    shown = told.out + told.err + caplog.text + str(describe(out))
    stored = "".join(p.read_bytes().decode("latin-1") for p in out.iterdir() if p.is_file())
    assert not any(secret in shown + stored for secret in (*SECRETS, "p%40zz"))
    assert "a.tar/1.png" in shown and "a.tar" in stored


def test_image_tars_leave_no_secret_behind(tokenizer_folder, tmp_path, capsys, caplog):
    place = f"memory://me:p%40ss%2Fword@set/a.tar?{SIGNATURE}"
    write_tar(tmp_path / "a.tar", picture(1), b"no picture", picture(3))
    system, path = fsspec.core.url_to_fs(place)
    system.pipe(path, (tmp_path / "a.tar").read_bytes())
    check_no_secret_is_left(place, tokenizer_folder, tmp_path / "codes", capsys, caplog)


def test_image_tars_behind_a_password_leave_no_secret_behind(
    tokenizer_folder, tmp_path, capsys, caplog
):
    pytest.importorskip("aiohttp")
    (tmp_path / "served").mkdir()
    write_tar(tmp_path / "served" / "a.tar", picture(1), b"no picture", picture(3))
    with ShardServer(tmp_path / "served", USER) as server:
        place = with_secrets(server).replace("/train?", "/train/a.tar?")
        check_no_secret_is_left(place, tokenizer_folder, tmp_path / "codes", capsys, caplog)


def test_a_dataset_of_a_time_when_secrets_were_stored_goes_on(tokenizer, tmp_path):
    images = make_images(3)
    old = small_plan(tokenizer, images, source="webdataset:all,shards=http://h/a.tar?sig=1")
    new = small_plan(tokenizer, images, source="webdataset:all,shards=http://h/a.tar")
    commit_plan(tmp_path, old)
    before = (tmp_path / "plan.json").read_bytes()
    commit_plan(tmp_path, new)
    assert (tmp_path / "plan.json").read_bytes() == before
    with pytest.raises(ConfigError, match="source"):
        commit_plan(tmp_path, small_plan(tokenizer, images, source="webdataset:all,shards=b.tar"))


def test_a_server_that_never_ends_is_given_up(dataset, tmp_path, monkeypatch):
    """Whose every byte comes soon enough: shards, and tars of images."""
    monkeypatch.setattr(timeouts, "TOTAL", 0.5)
    monkeypatch.setattr(timeouts, "SLOWEST", 1e8)
    folder = shutil.copytree(dataset, tmp_path / "codes")
    write_tar(folder / "a.tar", *[picture(i) for i in range(9)])
    with ShardServer(folder) as server:
        server.faults = {name: ["drip"] * 9 for name in ("plan.json", "a.tar")}
        start = time.monotonic()
        with pytest.raises(ResourceError, match=r"plan\.json: .*given up after 1 s"):
            open_codes(server.url)
        pytest.importorskip("aiohttp")
        server.faults["a.tar"] = ["", *["drip"] * 9]  # the first asks for the size
        config = WebDatasetConfig(shards=f"{server.url}/a.tar")
        contract = ImageContract(mode="grey", height=6, width=6)
        with pytest.raises(ResourceError, match=r"a\.tar: cannot be downloaded: given up"):
            open_images(config, "all", contract)
        assert time.monotonic() - start < 60


def test_what_comes_fast_enough_may_take_longer(dataset, monkeypatch):
    monkeypatch.setattr(timeouts, "TOTAL", 0.2)
    monkeypatch.setattr(timeouts, "SLOWEST", 1)
    with ShardServer(dataset) as server:
        server.faults["plan.json"] = ["drip"]
        monkeypatch.setattr("shard_server.DRIP_SECONDS", 0.001)
        assert len(open_codes(server.url)) == 10
