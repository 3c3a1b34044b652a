"""One Chromium for the tests of a file, and the reports that it opens."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_flip.reports.page import write_report
from lightning_flip.stores import read_history
from tests.reports import report_runs

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_HOW = "install it, such as with `apt-get install chromium` as root, or name it in LIGHTNING_FLIP_BROWSER"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser; without one tests are skipped, or fail where the environment says that one is needed."""
    missing = pytest.fail if os.environ.get("LIGHTNING_FLIP_NEEDS_BROWSER") else pytest.skip
    try:
        from playwright.sync_api import Error, sync_playwright
    except ModuleNotFoundError:
        missing("playwright is not installed: pip install playwright")
    path = os.environ.get("LIGHTNING_FLIP_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        missing(f"there is no Chromium: {_HOW}")
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            missing(f"{path} does not start ({error}): {_HOW}")
        yield started
        started.close()


@dataclass
class Opened:
    """A page in the browser, and what happened since it was opened."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self) -> str:
        return str(self.page.inner_text("body"))

    def planted(self) -> object:
        """What a script that should not have run has left."""
        return self.page.evaluate(f"window.{report_runs.MARKER} ?? null")

    def overflow(self) -> int:
        """How far the page is wider than the window, in pixels."""
        return int(self.page.evaluate("document.scrollingElement.scrollWidth - innerWidth"))


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Opened]]:
    """open_page(address, scripts=True, dark=False, width=1280, ...): the page, after it was loaded."""
    contexts = []

    def open_one(address: str, *, scripts: bool = True, dark: bool = False, width: int = 1280, **more: Any) -> Opened:
        context = browser.new_context(
            java_script_enabled=scripts,
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": 900},
            **more,
        )
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.set_default_timeout(20_000)
        opened.page.on("console", lambda said: said.type in ("error", "warning") and opened.errors.append(said.text))
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.goto(address)
        return opened

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def report_of(tmp_path_factory) -> Callable[..., Path]:
    """report_of(name, folder=False): the HTML file of the report of a run from `report_runs`."""

    @functools.cache
    def run_of(name: str) -> Path:
        return report_runs.REPORTABLE[name](tmp_path_factory.mktemp("run") / name)

    @functools.cache
    def write(name: str, *, folder: bool = False, pictures: bool = False) -> Path:
        run = run_of(name)
        out = tmp_path_factory.mktemp("report") / ("report" if folder else "report.html")
        return write_report(run, out, images=pictures_of(run) if pictures else None)

    @functools.cache
    def pictures_of(run: Path) -> Path:
        samples = read_history(run).samples("train")
        names = samples["sample_id"].to_pylist()
        return report_runs.write_images(run.parent / "pictures", names, np.asarray(samples["true_target"]))

    return write


class _Quiet(SimpleHTTPRequestHandler):
    """Serves a folder with a content security policy."""

    policy = ""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", self.policy)
        super().end_headers()

    def do_GET(self) -> None:
        if self.path != "/favicon.ico":  # which browsers ask for, unless a page names another icon
            return super().do_GET()
        self.send_response(204)
        self.end_headers()
        return None

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Path, str], str]]:
    """serve(folder, policy): an address of the folder, whose files come with the policy."""
    with contextlib.ExitStack() as stack:

        def start(folder: Path, policy: str) -> str:
            kind = type("Handler", (_Quiet,), {"policy": policy})
            server = stack.enter_context(
                ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=folder))
            )
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_address[1]}/"

        yield start
