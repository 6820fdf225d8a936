"""`imagetok demo`: what its page can do, and the page itself, served on loopback."""

import http.client
import json
import math
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import open_browser
from PIL import Image
from sampling_parts import make_prior_folder

from cli.main import _run
from imagetok.config import validate
from imagetok.errors import ConfigError, InputError
from imagetok.images import to_uint8
from imagetok.pictures import heat_map
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer
from prior import Prior
from prior.demo_session import DemoSession, _uncertainty_maps
from prior.loading import open_pair
from prior.sampling_params import SamplingParams, sampling_params


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A tiny prior of 3 x 3 codes out of 7, with its tokenizer of grey 6 x 6 images."""
    return make_prior_folder(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def bench(source) -> DemoSession:
    prior, tokenizer = open_pair(source, None, torch.device("cpu"))
    return DemoSession(tokenizer, prior)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A picture of noise in the tokenizer's size."""
    noise = torch.randint(0, 256, (6, 6), generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("picture") / "noise.png"
    Image.fromarray(noise.numpy().astype(np.uint8)).save(path)
    return path


def shown(images: torch.Tensor) -> np.ndarray:
    """One grey image (1, 1, 6, 6) as the page shows it: squares of 64 x 64, in three channels."""
    pixels = to_uint8(images)[0, 0].repeat_interleave(64, 0).repeat_interleave(64, 1)
    return pixels[:, :, None].expand(-1, -1, 3).numpy()


def test_a_picture_is_read_encoded_and_decoded(bench, file):
    seen = bench.look(str(file))
    pixels = torch.from_numpy(np.array(Image.open(file)))[None, None] / 255
    assert np.array_equal(seen.original, shown(pixels))
    codes = bench.tokenizer.encode(pixels)
    assert seen.tables == [codes[0][0].tolist()]
    assert np.array_equal(seen.reconstruction, shown(bench.tokenizer.decode(codes)))
    assert np.array_equal(seen.reconstruction, bench.decode(seen.tables))
    assert seen.unsure is None and "has no code probabilities" in seen.description
    assert bench.captions(4, "all") == ["a", "b", "c", "a"]
    assert bench.captions(2, "none") == ["sample 1", "sample 2"]
    colours = seen.code_maps[0][::128, ::128].reshape(9, 3).tolist()
    flat = codes[0].flatten().tolist()
    assert all(
        (flat[i] == flat[j]) == (colours[i] == colours[j]) for i in range(9) for j in range(9)
    )


@pytest.mark.parametrize(("name", "most"), [("uncertainty", 1.0), ("entropy", math.log(7))])
def test_uncertainty_has_one_scale_for_all_images(name, most):
    """Half as uncertain an image is half as bright, and black without uncertainty."""
    image = torch.zeros(1, 1, 4, 4)
    brightest = heat_map(torch.ones(1, 1, 1))[0, :, 0, 0]
    for share in (0.0, 0.5, 1.0):
        maps = {name: torch.full((1, 2, 2), share * most)}
        shown, description = _uncertainty_maps(image, maps, 7)
        assert shown is not None
        colour = heat_map(torch.full((1, 1, 1), share))[0, :, 0, 0]
        assert np.abs(shown[0, 0] - 0.6 * colour).max() <= 1
        assert f"pale yellow is {most:.3g}" in description
    assert np.abs(shown[0, 0] - 0.6 * brightest).max() <= 1


def test_edited_codes_are_decoded(bench):
    table = [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
    expected = shown(bench.tokenizer.decode((torch.tensor([table]),)))
    assert np.array_equal(bench.decode([table]), expected)
    as_a_page_sends_it = [["0", "1", "2"], [3.0, 4.0, 5.0], [6, "0", 1]]
    assert np.array_equal(bench.decode([as_a_page_sends_it]), expected)
    swapped = bench.swap(table, 0, 0, 6)
    assert swapped == [[6, 1, 2], [3, 4, 5], [0, 6, 1]]
    assert bench.swap(swapped, 0, 6, 0) == table
    assert not np.array_equal(bench.decode([swapped]), expected)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[0, 1, 7], [0, 0, 0], [0, 0, 0]], r"expected codes in \[0, 7\), found \[0, 7\]"),
        ([[0, 1, -1], [0, 0, 0], [0, 0, 0]], r"found \[-1, 1\]"),
        ([[0, 1, 0.5], [0, 0, 0], [0, 0, 0]], "whole numbers as codes, found 0.5"),
        ([[0, 1, ""], [0, 0, 0], [0, 0, 0]], "whole numbers as codes, found ''"),
        ([[0, 1, "nan"], [0, 0, 0], [0, 0, 0]], "found 'nan'"),
        ([[0, 1, "1e30"], [0, 0, 0], [0, 0, 0]], "found '1e30'"),
        ([[0, 1], [0, 0], [0, 0]], "expected a table of 3 x 3 codes"),
        ([], "expected a table of 3 x 3 codes"),
    ],
)
def test_what_are_no_codes_is_refused(bench, table, message):
    with pytest.raises(InputError, match=message):
        bench.decode([table])
    with pytest.raises(InputError, match="expected 1 table of codes, found 2"):
        bench.decode([table, table])


def test_draws_are_those_of_the_prior(bench):
    drawn = bench.sample(3, ["b"], SamplingParams(seed=4, temperature=0.5))
    codes = bench.prior.sample(3, label="b", seed=4, temperature=0.5)
    for j, picture in enumerate(drawn):
        whole = bench.tokenizer.decode((codes[0][j : j + 1],))
        assert np.abs(picture.astype(int) - shown(whole)).max() <= 1  # another batch
    with pytest.raises(InputError, match="1 to 64 images, found 65"):
        bench.sample(65)
    with pytest.raises(ConfigError, match="temperature"):
        sampling_params(temperature=0.0)


def test_completions_keep_what_they_are_given(bench, file):
    back, kept, *completed = bench.complete(str(file), 2, 3, params=SamplingParams(seed=1))
    assert np.array_equal(back, bench.look(str(file)).reconstruction)
    assert np.array_equal(kept[:256], back[:256]) and (kept[256:] == 127).all()
    assert len(completed) == 3
    whole = bench.complete(str(file), 3, 1)[2]
    assert np.array_equal(whole, back)  # all rows are kept


def test_refusals_name_no_place_of_the_server(bench, tmp_path):
    bad = tmp_path / "note.png"
    bad.write_text("no picture")
    with pytest.raises(InputError, match=r"^note\.png: expected an image"):
        bench.look(str(bad))


def test_without_a_prior_there_is_nothing_to_draw(bench):
    with pytest.raises(InputError, match="--prior DIR"):
        DemoSession(bench.tokenizer, None).sample(1)


def test_a_prior_of_another_tokenizer_is_refused(source, tmp_path):
    other = Tokenizer.from_pretrained(make_prior_folder(tmp_path, seed=1).parent / "own")
    with pytest.raises(InputError, match="tokenizer"):
        DemoSession(other, Prior.from_pretrained(source))


def test_a_tokenizer_that_only_encodes_is_refused_before_the_server_starts(tmp_path, capsys):
    pytest.importorskip("gradio")
    tree = {
        "image": {"mode": "grey", "height": 8, "width": 8},
        "network": {
            "kind": "vqgan", "width": 4, "multipliers": [1, 1], "norm_groups": 2, "blocks": 1,
            "latent_channels": 4, "encode_only": True,
        },
        "quantizer": {"kind": "vqvae", "num_codes": 8, "code_dim": 4},
    }  # fmt: skip
    tokenizer = build_tokenizer(validate(tree, TokenizerConfig, "test"))
    tokenizer.save_pretrained(tmp_path / "t")
    assert _run(["demo", "--tokenizer", str(tmp_path / "t"), "--device", "cpu"]) == 3
    assert "only encodes: its class has no decoder" in capsys.readouterr().err


def test_no_model_is_a_usage_error(capsys):
    assert _run(["demo"]) == 2
    assert "pass --tokenizer DIR, --prior DIR, or both" in capsys.readouterr().err


def test_without_gradio_one_message_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    # Other tests import the page, which names a folder to gradio; both are restored afterwards.
    monkeypatch.delitem(sys.modules, "cli.demo_page", raising=False)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "of this test")
    assert _run(["demo", "--tokenizer", "nowhere"]) == 5
    description = capsys.readouterr().err
    assert description.startswith("error: imagetok demo needs gradio, which cannot be imported")
    assert description.endswith('pip install "imagetok[demo]"\n')


@pytest.fixture(scope="module")
def served(bench) -> Iterator[str]:
    """The page's address; without a proxy, which could not find it."""
    pytest.importorskip("gradio")
    from cli.demo_page import build_page, serve

    lines: list[str] = []
    page = build_page(bench)
    serve(page, "127.0.0.1", 0, announce=lines.append, wait=False)
    [line] = lines
    yield line.removeprefix("open ").removesuffix(" in a browser")
    page.close(verbose=False)


@pytest.fixture(scope="module")
def call(served) -> Callable[..., tuple]:
    """call(endpoint, *values): what gradio's own client gets."""
    from gradio_client import Client

    client = Client(served, verbose=False)
    return lambda name, *values: client.predict(*values, api_name=f"/{name}")


def opened(answer: str) -> np.ndarray:
    return np.array(Image.open(answer).convert("RGB"))


def test_the_server_looks_edits_and_swaps(call, bench, file):
    from gradio_client import handle_file

    expected = bench.look(str(file))
    original, back, unsure, description, colours, table = call("look", handle_file(str(file)))
    assert np.array_equal(opened(original), expected.original)
    assert np.array_equal(opened(back), expected.reconstruction)
    assert np.array_equal(opened(colours), expected.code_maps[0])
    assert unsure is None and description == expected.description
    assert table["data"] == expected.tables[0]
    edited = [list(row) for row in table["data"]]
    edited[1][1] = (edited[1][1] + 1) % 7
    picture, _ = call("decode", {"headers": table["headers"], "data": edited})
    assert np.array_equal(opened(picture), bench.decode([edited]))
    assert not np.array_equal(opened(picture), expected.reconstruction)
    swapped, picture, _ = call("swap", 0, edited[1][1], 0, table)
    assert swapped["data"] == bench.swap(table["data"], 0, edited[1][1], 0)
    assert np.array_equal(opened(picture), bench.decode([swapped["data"]]))


def test_the_server_draws_and_completes(call, bench, file):
    from gradio_client import handle_file

    settings = ("c", 1.0, 0, 1.0, 1.0, 3)
    drawn = call("sample", 4, *settings)
    for answer, picture in zip(drawn, bench.sample(4, "c", SamplingParams(seed=3)), strict=True):
        assert np.array_equal(opened(answer["image"]), picture)
        assert answer["caption"] == "c"
    none = ("none", 1.0, 0, 1.0, 1.0, 0)
    done = call("complete", handle_file(str(file)), 1, 2, *none)
    for answer, picture in zip(done, bench.complete(str(file), 1, 2), strict=True):
        assert np.array_equal(opened(answer["image"]), picture)
    captions = [answer["caption"] for answer in done]
    assert captions == ["reconstruction", "kept part", "completion 1", "completion 2"]


def test_the_parameters_of_the_endpoints_have_names(served):
    with urllib.request.urlopen(f"{served}gradio_api/info", timeout=60) as answer:
        endpoints = json.load(answer)["named_endpoints"]
    sampling = ["label", "temperature", "top_k", "top_p", "guidance", "seed"]
    found = {
        name.removeprefix("/"): [p["parameter_name"] for p in endpoint["parameters"]]
        for name, endpoint in endpoints.items()
    }
    assert found == {
        "look": ["image"],
        "decode": ["codes"],
        "swap": ["level", "code", "other", "codes"],
        "sample": ["num_images", *sampling],
        "complete": ["image", "keep_rows", "num_completions", *sampling],
    }


def test_the_server_tells_what_it_refuses(call):
    from gradio_client.exceptions import AppError

    table = {"headers": ["0", "1", "2"], "data": [[9, 0, 0]] * 3}
    with pytest.raises(AppError, match=r"expected codes in \[0, 7\), found \[0, 9\]"):
        call("decode", table)
    table["data"] = [[0, 0, 0]] * 3
    with pytest.raises(AppError, match="swap code: expected a number, found nothing"):
        call("swap", 0, None, 0, table)
    with pytest.raises(AppError, match="images: expected a number, found nothing"):
        call("sample", None, "c", 1.0, 0, 1.0, 1.0, 3)


def test_empty_fields_stand_for_what_they_start_with(call):
    drawn = [call("sample", 1, "c", *rest)[0]["image"] for rest in ((1.0, 0, 1.0, 1.0, 0),
             (None, None, None, None, None))]  # fmt: skip
    assert np.array_equal(opened(drawn[0]), opened(drawn[1]))


def test_the_server_judges_files_as_all_others_are(call, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    (tmp_path / "note.png").write_text("no picture")
    upload = handle_file(str(tmp_path / "note.png"))
    with pytest.raises(AppError, match=r"^note\.png: expected an image"):
        call("look", upload)
    with pytest.raises(AppError, match=r"note\.png: expected an image"):
        call("complete", upload, 1, 2, "none", 1.0, 0, 1.0, 1.0, 0)


def test_the_server_fetches_nothing(call):
    """In the place of an image, nor hidden in any other value."""
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    file = handle_file("http://example.com/picture.png")
    with pytest.raises(AppError, match=r"^expected an uploaded file$"):
        call("look", file)
    with pytest.raises(AppError, match=r"^expected an uploaded file$"):
        call("decode", {"headers": ["0", "1", "2"], "data": [[file, 0, 0]] * 3})


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a..b"])
def test_a_host_that_is_no_address_of_the_machine_is_refused(host):
    pytest.importorskip("gradio")
    from cli.demo_page import serve

    with pytest.raises(ConfigError, match=f"--host: expected an address .* found '{host}'"):
        serve(None, host, 0, announce=print)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow  # a server of its own
def test_what_was_uploaded_is_removed_at_the_end(source, tmp_path):
    pytest.importorskip("gradio")
    command = [sys.executable, "-m", "imagetok", "demo", "--prior", str(source), "--port", "0"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        try:
            assert any("in a browser" in line for line in server.stdout)
            [folder] = tmp_path.glob("imagetok-demo-*")
            assert folder.stat().st_mode & 0o077 == 0
            (folder / "upload.png").write_text("a picture")
        finally:
            server.terminate()
        assert server.wait(60) == 128 + signal.SIGTERM
    assert not folder.exists()


def test_the_server_gives_no_files(served, file):
    """Neither of where it was started, nor what nobody uploaded; it listens on loopback."""
    host, port = served.removeprefix("http://").rstrip("/").split(":")
    assert host == "127.0.0.1"
    for path in (Path("pyproject.toml").resolve(), Path("/etc/hostname"), file):
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("GET", f"/gradio_api/file={path}")
        assert connection.getresponse().status in (403, 404), path


@pytest.fixture(scope="module")
def ask(served) -> Callable[..., tuple[int, str]]:
    """ask(method, path, body, **headers): status and text of an answer, to what no browser asks."""
    address = served.removeprefix("http://").rstrip("/")

    def send(method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(address, timeout=60)
        content = body if isinstance(body, bytes | None) else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, content, {"Content-Type": "application/json"} | named)
        answer = connection.getresponse()
        allowed = answer.getheader("Access-Control-Allow-Origin")
        text = answer.read().decode()
        connection.close()
        return answer.status, text if allowed is None else f"allowed {allowed}"

    return send


def form(*files: bytes) -> bytes:
    """The body of an upload."""
    head = b'--part\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return b"".join(head + file + b"\r\n" for file in files) + b"--part--\r\n"


def test_the_server_opens_nothing_but_uploads(ask, file, tmp_path):
    """Wherever a file may stand, by each of the ways in; nor does it tell what there is."""
    secret = tmp_path / "private.png"
    secret.write_bytes(file.read_bytes())
    description = set()
    rest = ["none", 1.0, 0, 1.0, 1.0, 0]
    for path in (str(secret), "/etc/passwd", "/no/such/file", f"{secret}\0", "", 5, {"path": "/"}):
        for values in ([{"path": path}], [{"path": path, "meta": {"_type": "gradio.FileData"}}]):
            for name, data in (("look", values), ("complete", [*values, 1, 2, *rest])):
                status, text = ask("POST", f"/gradio_api/call/{name}", {"data": data})
                event = json.loads(text)["event_id"]
                description.add(ask("GET", f"/gradio_api/call/{name}/{event}"))
        for way in ("run", "api"):
            status, text = ask("POST", f"/gradio_api/{way}/look", {"data": [{"path": path}]})
            assert status == 500 and json.loads(text)["error"] == "expected an uploaded file"
    [(status, text)] = description
    assert status == 200 and '"error": "expected an uploaded file"' in text


UPLOAD = {"Content_Type": "multipart/form-data; boundary=part"}


def test_other_names_and_other_pages_are_refused(ask, served):
    own = served.removeprefix("http://").rstrip("/")
    foreign = ["evil.example", f"evil.example:{own.rpartition(':')[2]}", "192.0.2.7", "localhost.x"]
    for host in foreign:  # a name that leads here: its pages are of the same origin
        for method, path in (("GET", "/"), ("GET", "/config"), ("POST", "/gradio_api/call/look")):
            assert ask(method, path, Host=host, Origin=f"http://{host}")[0] == 403
        preflight = {"Host": host, "Origin": f"http://{host}"}
        preflight["Access_Control_Request_Method"] = "POST"
        status, text = ask("OPTIONS", "/gradio_api/upload", **preflight)
        assert status == 403 and not text.startswith("allowed")
    for origin in ("http://evil.example", "null", "http://localhost:1", "http://127.0.0.1", ""):
        status, text = ask("POST", "/gradio_api/upload", form(b"x"), Origin=origin, **UPLOAD)
        assert (status, text) == (403, "requests from other pages are rejected\n"), origin
    assert ask("POST", "/gradio_api/upload", form(b"x"), Origin=f"http://{own}", **UPLOAD)[0] == 200
    port = own.rpartition(":")[2]
    assert ask("GET", "/config", Host=f"localhost:{port}")[0] == 200


def test_what_is_sent_is_bounded(ask, monkeypatch):
    from cli import demo_server

    monkeypatch.setattr(demo_server, "_MAX_UPLOAD_BODY", 5000)
    monkeypatch.setattr(demo_server, "_MAX_BODY", 5000)
    monkeypatch.setattr(demo_server, "MAX_KEPT_FILES", 10)
    status, text = ask("POST", "/gradio_api/upload", form(bytes(5000)), **UPLOAD)
    assert status == 413 and "at most" in text
    status, _ = ask("POST", "/gradio_api/call/decode", {"data": ["x" * 5000]})
    assert status == 413
    paths = []
    for i in range(16):
        status, text = ask("POST", "/gradio_api/upload", form(b"%d" % i), **UPLOAD)
        paths += [Path(path) for path in json.loads(text)]
    assert paths[-1].exists() and not paths[0].exists()
    demo_server.make_room(paths[-1].parents[1])
    assert sum(path.is_file() for path in paths[-1].parents[1].rglob("*")) == 10


def test_a_server_for_everyone_says_so(bench):
    pytest.importorskip("gradio")
    from cli.demo_page import build_page, serve

    lines: list[str] = []
    page = build_page(bench)
    serve(page, "0.0.0.0", 0, announce=lines.append, wait=False)
    page.close(verbose=False)
    assert "everyone who can reach this machine" in lines[0] and lines[1].startswith("open http")


@pytest.mark.parametrize("width", [390, 1440])
def test_in_a_browser(served, file, width):
    picture = (
        "[...document.querySelectorAll('.block')].some(b => b.innerText.includes('{}') "
        "&& b.querySelector('img')?.src.includes('/file='))"
    )
    button = (
        "[...document.querySelectorAll('button')].findLast(b => b.innerText.trim() == '{}' "
        "&& b.checkVisibility({{visibilityProperty: true}}))"  # hidden copies measure the tabs
    )
    with open_browser() as browser:
        browser.look(width, 900)
        browser.open(served)
        browser.wait(f"!!{button.format('Decode')}")
        browser.upload("input[type=file]", file)
        for label in ("input", "reconstruction", "codes, one colour per code"):
            browser.wait(picture.format(label))
        assert not browser.run(picture.format("edited codes, decoded"))
        browser.click(button.format("Decode"))
        browser.wait(picture.format("edited codes, decoded"))
        assert browser.run("[...document.querySelectorAll('img')].every(i => i.alt)")
        left = browser.run(f"({button.format('Decode')}).getBoundingClientRect().left")
        table = browser.run("document.querySelector('table').getBoundingClientRect().right")
        assert width < 600 or left >= table  # Decode is beside the codes
        browser.click(button.format("Sample"))
        browser.wait(f"!!{button.format('Draw samples')}")
        browser.click(button.format("Draw samples"))
        drawn = "[...document.querySelectorAll('img')].filter(i => i.src.includes('/file='))"
        browser.wait(f"{drawn}.filter(i => i.offsetParent).length >= 10")
        assert browser.run("document.documentElement.scrollWidth") == width
        left, right = browser.run(
            "(b => [b.left, b.right])(document.querySelector('main').getBoundingClientRect())"
        )
        assert abs(left - (width - right)) <= 1 and right - left <= 1280  # centred
        assert browser.errors == []
        outside = [u for u in browser.requests if not u.startswith((served, "data:", "blob:"))]
        assert outside == []
