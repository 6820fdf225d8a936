"""A headless Chromium driven over its debugging pipe: what a page logs, loads and looks like."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE = 60.0
_SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # it refuses to start without when the tests run as root, as in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


LOOKS = [(390, False), (390, True), (1440, False), (1440, True)]
"""Widths of a phone and of a desktop, each in light and in dark mode."""
_FAULTS_OF_LAYOUT = """(() => {
  const found = [], width = WIDTH, all = [...document.querySelectorAll('body *')];
  const box = e => e.getBoundingClientRect();
  if (document.documentElement.scrollWidth > width) found.push('the page scrolls sideways');
  for (const e of all) {
    if (e.closest('.unseen')) continue;
    const name = `${e.tagName}.${e.className}`;
    if (box(e).right > width + 1 && !e.closest('.wide')) found.push(`${name} sticks out`);
    const size = parseFloat(getComputedStyle(e).fontSize);
    if (e.innerText && size < 12) found.push(`${name} is small`);
  }
  for (const image of document.images) {
    if (!image.alt.trim()) found.push('an image has no alternative text');
    if (!image.complete || !image.naturalWidth) found.push(`${image.alt} is not drawn`);
  }
  for (const figure of document.querySelectorAll('.drawn'))
    if (box(figure).width < (width < 600 ? width - 40 : 400)) found.push(`${figure.alt} is narrow`);
  for (const image of document.querySelectorAll('.pictures img')) {
    const wanted = parseFloat(getComputedStyle(image).getPropertyValue('--width'));
    if (box(image).width < Math.min(64, wanted) - 0.1) found.push(`${image.alt} is tiny`);
  }
  for (const frame of document.querySelectorAll('.wide'))
    if (!frame.querySelector('td:nth-child(3)') && frame.scrollWidth > frame.clientWidth)
      found.push(`${frame.ariaLabel} has two columns and is cut`);
  const levels = [...document.querySelectorAll('h1, h2, h3')].map(e => +e.tagName[1]);
  if (levels.filter(level => level === 1).length !== 1) found.push('not one h1');
  if (levels.some((level, i) => level > (levels[i - 1] ?? 0) + 1))
    found.push('a heading is skipped');
  for (const part of ['h1', '.subtitle', '.measured'])
    if (!document.querySelector(part)?.innerText.trim()) found.push(`no ${part}`);
  const ground = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
  if (ground.every(c => c < 60) !== matchMedia('(prefers-color-scheme: dark)').matches)
    found.push('not in the mode of the reader');
  return found;
})()"""


class Browser:
    """One page of a running browser. Requests by URL and errors of the console are collected."""

    def __init__(self, requests: int, answers: int):
        self._to, self._from = requests, answers
        self._buffer, self._number = b"", 0
        self._session: str | None = None
        self._loaded = False
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self._call(f"{domain}.enable")

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """The size of the window in css pixels, and the reader's taste."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Load a page to its end."""
        self._loaded = False
        self._call("Page.navigate", url=url)
        self._until(lambda: self._loaded, f"{url} to load")

    def run(self, expression: str) -> Any:
        """The value of JavaScript in the page."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until JavaScript in the page is true."""
        self._until(lambda: self.run(expression), expression)

    def click(self, element: str) -> None:
        """Press and release on an element (of a JavaScript expression) that has come to rest.

        It rests when two looks 100 ms apart find it at the same place with nothing above it.
        """
        look = (
            f"(e => {{if (!e) return null; e.scrollIntoView({{block: 'center'}}); "
            "const b = e.getBoundingClientRect(), x = b.x + b.width / 2, y = b.y + b.height / 2; "
            f"return e.contains(document.elementFromPoint(x, y)) ? [x, y] : null}})({element})"
        )
        twice = f"(async () => {{const a = {look}; await new Promise(r => setTimeout(r, 100)); "
        twice += f"const b = {look}; return a && b && '' + a == '' + b ? b : null}})()"
        x, y = self._until(lambda: self.run(twice), f"{element} to rest")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            at = {"x": x, "y": y, "button": "left", "clickCount": 1}
            self._call("Input.dispatchMouseEvent", type=kind, **at)

    def upload(self, selector: str, file: Path) -> None:
        """Choose a file in the first file input that fits a CSS selector."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def screenshot(self) -> bytes:
        """The whole page as a PNG."""
        return base64.b64decode(
            self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        )

    def faults_of_layout(self, width: int) -> list[str]:
        """What is wrong with the layout of a report, opened at a width; folds are opened."""
        self.run("document.querySelectorAll('details').forEach(e => { e.open = true })")
        return self.run(_FAULTS_OF_LAYOUT.replace("WIDTH", str(width)))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _PATIENCE
        while True:
            answer = self._receive(end - time.monotonic())
            if answer is not None and answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            assert time.monotonic() < end, f"no answer to {method}"

    def _receive(self, timeout: float) -> dict[str, Any] | None:
        """The next message, of which events are noted."""
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], max(0, timeout))[0]:
                return None
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, values: dict[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(values["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(values["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if values["type"] in ("error", "assert"):
                self.errors.append(str([a.get("value", a) for a in values["args"]]))
            case "Log.entryAdded" if values["entry"]["level"] == "error":
                self.errors.append(f"{values['entry']['text']} {values['entry'].get('url', '')}")

    def _until(self, look: Callable[[], Any], what: str) -> Any:
        """What a look finds, once it is something."""
        end = time.monotonic() + _PATIENCE
        while not (found := look()):
            assert time.monotonic() < end, f"waited in vain for {what}"
            self._receive(0.1)
        return found


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser with one empty page; skips the test where there is no Chromium."""
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here; Debian's is `apt-get install chromium`")
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()

        def place() -> None:
            """The pipes where Chromium looks for them; first out of each other's way."""
            kept = [os.dup(to_read), os.dup(from_write)]
            kept = [os.dup(end) if end in (3, 4) else end for end in kept]
            os.dup2(kept[0], 3)
            os.dup2(kept[1], 4)

        process = subprocess.Popen(
            [program, *_SWITCHES, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=place,
            close_fds=False,
        )
        os.close(to_read)
        os.close(from_write)
        try:
            yield Browser(to_write, from_read)
        finally:
            os.close(to_write)  # it ends when nobody can speak to it
            os.close(from_read)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def check_layout(page: Path) -> None:
    """At the widths of a phone and a desktop, light and dark, a page has no faults of layout."""
    with open_browser() as browser:
        for width, dark in LOOKS:
            browser.look(width, 900, dark)
            browser.open(page.as_uri())
            assert browser.faults_of_layout(width) == [], (page, width, dark)
