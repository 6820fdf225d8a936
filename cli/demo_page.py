"""The demo's web page, built with Gradio; its actions are in `prior.demo_session`."""

import atexit
import inspect
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cli import demo_server
from imagetok.errors import ConfigError, ImagetokError, InputError
from imagetok.optional import require
from imagetok.tokenizers import Tokenizer
from prior.base import Label
from prior.demo_session import MAX_SAMPLES, DemoSession
from prior.loading import open_pair
from prior.sampling_params import SamplingParams, sampling_params

# Read when gradio is imported: no analytics and no version check over the network.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Uploads and pictures: readable by this user only, removed at exit.
_FOLDER = Path(tempfile.mkdtemp(prefix="imagetok-demo-"))
os.environ["GRADIO_TEMP_DIR"] = str(_FOLDER)
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
require("gradio", extra="demo", purpose="imagetok demo")
import gradio as gr  # noqa: E402
from gradio.themes import Base, Default  # noqa: E402

_MAX_WAITING = 64  # calls
_CONTROLS = ("label", "temperature", "top_k", "top_p", "guidance", "seed")
_FONTS = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")
# The colours of reports, in light and in dark mode.
_COLOURS = {
    "body_background_fill": ("#fbfbfa", "#14171b"),
    "body_text_color": ("#1f242b", "#e4e7ec"),
    "body_text_color_subdued": ("#5b6370", "#9aa3b0"),
    "block_label_text_color": ("#1f242b", "#e4e7ec"),
    "slider_color": ("#0067a3", "#5cb3e6"),
    "button_primary_background_fill": ("#0067a3", "#0067a3"),
    "button_primary_background_fill_hover": ("#00527f", "#00527f"),
    "button_primary_text_color": ("#ffffff", "#ffffff"),
}
# Names stand above pictures, not on them; small pictures are enlarged without smoothing.
_STYLE = """
.gradio-container { max-width: 80rem !important; margin-inline: auto !important; }
.gradio-container { --color-accent: #0067a3; }
.dark .gradio-container, .dark.gradio-container { --color-accent: #5cb3e6; }
.gradio-container h1 { letter-spacing: -0.02em; }
.gradio-container img { image-rendering: pixelated; }
.gradio-container label[data-testid="block-label"] {
  position: static !important; width: 100%; border: 0;
}
.upload img { width: 100% !important; height: 15rem !important; object-fit: contain; }
.gallery .grid-container {
  grid-template-columns: repeat(auto-fill, minmax(min(9rem, 30%), 1fr)) !important;
}
"""


def open_session(
    tokenizer: Path | str | None, prior: Path | str | None, device: torch.device
) -> DemoSession:
    """Load the tokenizer and the prior of the demo; a prior includes its tokenizer.

    Raises ArtifactError for a tokenizer that only encodes.
    """
    if prior is not None:
        loaded, own = open_pair(prior, tokenizer, device)
    else:
        assert tokenizer is not None
        loaded, own = None, Tokenizer.from_pretrained(tokenizer).to(device)
    own.check_decodes()
    return DemoSession(own, loaded)


class _Page(gr.Blocks):
    """A page that reads uploaded files only: gradio would download a file whose path is a URL."""

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        super().validate_inputs(block_fn, inputs)
        try:
            _check_files(inputs)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None


def _check_files(value: Any) -> None:
    """Raise InputError if the inputs of a client name a file that was not uploaded."""
    if isinstance(value, dict):
        if value.get("path") is not None:
            demo_server.uploaded(value["path"], _FOLDER)
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            _check_files(inner)


def build_page(session: DemoSession) -> gr.Blocks:
    """Build the page; every action is also an API endpoint."""
    with _Page(title="imagetok", analytics_enabled=False) as page:
        gr.Markdown(f"# imagetok\n{_described(session)}")
        with gr.Tab("Codes"):
            _look_tab(session)
        if session.prior is not None:
            with gr.Tab("Sample"):
                _sample_tab(session)
            with gr.Tab("Complete"):
                _complete_tab(session)
    page.queue(max_size=_MAX_WAITING)
    return page


def serve(
    page: gr.Blocks, host: str, port: int, *, announce: Callable[[str], None], wait: bool = True
) -> None:
    """Serve the page; with `wait`, until interrupted. See `demo_server.serve`."""
    demo_server.serve(
        page,
        host,
        port,
        folder=_FOLDER,
        announce=announce,
        wait=wait,
        theme=_theme(),
        css=_STYLE,
        footer_links=[],
    )


def _theme() -> Base:
    """Return the theme of the page: the look of reports, without fonts to download."""
    theme = Default(primary_hue="blue", secondary_hue="blue", font=_FONTS, font_mono=_MONO)
    light = {name: light for name, (light, _) in _COLOURS.items()}
    return theme.set(**light, **{f"{name}_dark": dark for name, (_, dark) in _COLOURS.items()})


def _described(session: DemoSession) -> str:
    tokenizer = session.tokenizer
    levels = zip(tokenizer.grids, tokenizer.num_codes, strict=True)
    codes = " and ".join(f"{h} x {w} codes (codebook size {k})" for (h, w), k in levels)
    image = tokenizer.image
    return (
        f"{', '.join(tokenizer.config.method)}: {image.mode} images of {image.height} x "
        f"{image.width} pixels are encoded to {codes}."
    )


def _endpoint(work: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """Wrap the action of a button so that errors are shown as messages on the page.

    names: names of its parameters in the API of the server.
    """
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD

    def run(*values: Any) -> Any:
        try:
            return work(*values)
        except ImagetokError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except (TypeError, ValueError) as error:
            raise gr.Error(f"invalid value: {error}") from None

    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    run.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess] (gradio reads it)
    run.__doc__ = work.__doc__
    return run


def _required(value: Any, name: str) -> Any:
    if value is None:
        raise ConfigError(f"{name}: expected a number, found nothing")
    return value


def _path(file: dict[str, Any] | None) -> str | None:
    """Return the path of an upload. Gradio's preprocessing is off: it would open the file first."""
    path = None if file is None else file.get("path")
    return None if path is None else demo_server.uploaded(path, _FOLDER)


def _image_input() -> gr.Image:
    return gr.Image(
        label="image",
        alt_text="uploaded image",
        image_mode=None,
        sources=["upload", "clipboard"],
        min_width=280,  # pixels: alone in its row on a phone
        elem_classes="upload",
    )


def _picture(label: str, min_width: int = 160) -> gr.Image:
    return gr.Image(
        label=label,
        alt_text=label,
        interactive=False,
        format="png",
        buttons=[],
        min_width=min_width,
    )


def _gallery(label: str) -> gr.Gallery:
    return gr.Gallery(label=label, format="png", interactive=False, elem_classes="gallery")


def _look_tab(session: DemoSession) -> None:
    levels = range(len(session.tokenizer.num_codes))
    gr.Markdown("An image, as the tokenizer reads it, decoded from its codes.")
    with gr.Row():
        file = _image_input()
        original, back, unsure = (
            _picture(label, 140)  # two side by side on a phone
            for label in ("input", "reconstruction", "encoder uncertainty")
        )
    summary = gr.Markdown()
    gr.Markdown(
        "Its codes. Edit them in the table, or exchange two codes wherever they occur, and decode."
    )
    maps, tables = [], []
    with gr.Row():
        with gr.Column(scale=2):
            for level in levels:
                drawn, table = _codes_of(session, level)
                maps.append(drawn)
                tables.append(table)
        with gr.Column(scale=1, min_width=240):
            edited = _picture("edited codes, decoded")
            decode = gr.Button("Decode", variant="primary")
            with gr.Row():
                level = gr.Number(0, label="level", precision=0, visible=len(levels) > 1)
                old, new = (
                    gr.Number(0, label=label, precision=0, min_width=80)
                    for label in ("swap code", "with code")
                )
            swap = gr.Button("Swap and decode")

    def look(upload: dict[str, Any] | None) -> list[Any]:
        path = _path(upload)
        if path is None:
            return [None] * 3 + [""] + [None] * (2 * len(levels))
        seen = session.look(path)
        shown = [seen.original, seen.reconstruction, seen.unsure, seen.description]
        return [*shown, *seen.code_maps, *seen.tables]

    def redraw(*values: Any) -> list[Any]:
        return [session.decode(values), *session.colours(values)]

    def exchange(at: int | None, one: int | None, other: int | None, *values: Any) -> list[Any]:
        chosen = _required(at, "level")
        if chosen not in levels:
            raise ConfigError(f"level: expected 0 to {len(levels) - 1}, found {chosen}")
        old, new = _required(one, "swap code"), _required(other, "with code")
        changed = [*values]
        changed[chosen] = session.swap(values[chosen], chosen, old, new)
        return [*changed, *redraw(*changed)]

    outputs = [original, back, unsure, summary, *maps, *tables]
    codes = ["codes"] if len(levels) == 1 else [f"codes_level{i}" for i in levels]
    file.change(_endpoint(look, "image"), file, outputs, api_name="look", preprocess=False)
    decode.click(_endpoint(redraw, *codes), tables, [edited, *maps], api_name="decode")
    inputs = [level, old, new, *tables]
    swap_codes = _endpoint(exchange, "level", "code", "other", *codes)
    swap.click(swap_codes, inputs, [*tables, edited, *maps], api_name="swap")


def _codes_of(session: DemoSession, level: int) -> tuple[gr.Image, gr.Dataframe]:
    """Build the picture and the table of the codes of one level, side by side."""
    named = f", level {level}" if len(session.tokenizer.num_codes) > 1 else ""
    h, w = session.tokenizer.grids[level]
    with gr.Row():
        drawn = _picture(f"codes{named}, one colour per code")
        table = gr.Dataframe(
            label=f"codes{named}; click to edit",
            headers=[str(column) for column in range(w)],
            row_count=h,
            column_count=w,
            datatype="number",
            type="array",
            interactive=True,
        )
    return drawn, table


def _sampling_controls(session: DemoSession, without: str) -> list[Any]:
    """Build the controls of sampling; `without` is the entry for no chosen class."""
    assert session.prior is not None
    config = session.prior.config
    names = config.named_classes
    without = f"({without})" if without in names else without
    with gr.Row():
        label = gr.Dropdown([without, *names], value=without, label="class", visible=bool(names))
        temperature = gr.Slider(0.1, 2.0, 1.0, step=0.05, label="temperature")
        top_k = gr.Number(0, label="top-k (0: off)", precision=0)
        top_p = gr.Slider(0.05, 1.0, 1.0, step=0.05, label="top-p (1: off)")
        guidance = gr.Slider(
            0.0, 5.0, 1.0, step=0.1, label="guidance (1: off)", visible=bool(names)
        )
        seed = gr.Number(0, label="seed", precision=0)
    return [label, temperature, top_k, top_p, guidance, seed]


def _label_and_params(
    label: str | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    guidance: float | None,
    seed: int | None,
) -> tuple[Label, SamplingParams]:
    """Convert the values of the controls; an empty control means its initial value."""
    params = sampling_params(
        temperature=1.0 if temperature is None else float(temperature),
        top_k=int(top_k or 0) or None,
        top_p=None if top_p is None or top_p >= 1 else float(top_p),
        guidance=1.0 if guidance is None else float(guidance),
        seed=int(seed or 0),
    )
    return None if label in ("(all)", "(none)") else label, params


def _sample_tab(session: DemoSession) -> None:
    assert session.prior is not None
    gr.Markdown("New images, drawn from the prior; the same seed gives the same images.")
    count = gr.Slider(1, MAX_SAMPLES, 10, step=1, label="images")
    controls = _sampling_controls(session, "all" if session.prior.config.num_classes else "none")
    button = gr.Button("Draw samples", variant="primary")
    gallery = _gallery("samples")

    def draw(number: int | None, *values: Any) -> list[Any]:
        drawn = int(_required(number, "images"))
        label, params = _label_and_params(*values)
        images = session.sample(drawn, label, params)
        return list(zip(images, session.captions(drawn, label), strict=True))

    inputs = [count, *controls]
    new = _endpoint(draw, "num_images", *_CONTROLS)
    button.click(new, inputs, gallery, api_name="sample", preprocess=False)


def _complete_tab(session: DemoSession) -> None:
    assert session.prior is not None
    rows = min(h for h, _ in session.prior.config.grids)
    gr.Markdown("The upper rows of an image's codes are kept, and the prior draws the others.")
    file = _image_input()
    with gr.Row():
        keep = gr.Slider(0, rows, rows // 2, step=1, label="rows of codes to keep")
        count = gr.Slider(1, MAX_SAMPLES, 4, step=1, label="completions")
    controls = _sampling_controls(session, "none")
    button = gr.Button("Complete", variant="primary")
    gallery = _gallery("reconstruction, kept part, completions")

    def complete(
        upload: dict[str, Any] | None, rows: int | None, number: int | None, *values: Any
    ) -> list[Any]:
        path = _path(upload)
        if path is None:
            raise ConfigError("image: expected an image file, found none; upload one first")
        keep_rows, drawn = (
            _required(rows, "rows of codes to keep"),
            _required(number, "completions"),
        )
        images = session.complete(path, int(keep_rows), int(drawn), *_label_and_params(*values))
        captions = ["reconstruction", "kept part", *(f"completion {i + 1}" for i in range(drawn))]
        return list(zip(images, captions, strict=True))

    inputs = [file, keep, count, *controls]
    finish = _endpoint(complete, "image", "keep_rows", "num_completions", *_CONTROLS)
    button.click(finish, inputs, gallery, api_name="complete", preprocess=False)
