"""Make the pictures of the HTML report for the documents: wide and narrow, light and dark.

Usage: python docs/make_pictures.py [FOLDER]
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lightning_flip.reports.page import write_report, write_update_report  # noqa: E402
from lightning_flip.stores import read_history  # noqa: E402
from tests.reports import report_runs  # noqa: E402

LARGEST = 150_000  # bytes of a picture
SIZES = {1280: 1600, 390: 1600}  # width and height of the window


def main() -> None:
    """Write the reports of synthetic runs, and take their pictures."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    chromium = os.environ.get("LIGHTNING_FLIP_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, report in make_reports(Path(temporary)).items():
            for width, height in SIZES.items():
                for theme in ("light", "dark"):
                    path = out / f"{name}-{width}-{theme}.png"
                    path.write_bytes(compressed(picture(browser, report, width, height, theme)))
                    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
        browser.close()


def make_reports(folder: Path) -> dict[str, Path]:
    """The report of a run and of an update, with pictures of samples."""
    run = report_runs.write_run(folder / "run", samples=2_000, epochs=20, validation=1_000)
    samples = read_history(run).samples("train")
    names = samples["sample_id"].to_pylist()
    images = report_runs.write_images(folder / "images", names, np.asarray(samples["true_target"]))
    models = report_runs.write_models(folder / "models", samples=2_000)
    val = report_runs.picture_names("val", 2_000)
    report_runs.write_images(images, val, np.random.default_rng(0).integers(10, size=2_000))
    update = write_update_report(
        models["old"], models["new"], folder / "update.html", max_nfr=0.1, images=images, floor=models["seed"],
        slices=["site"], title="Old and new model",
    )  # fmt: skip
    title = "Ten classes, 20% wrong labels"
    return {"report": write_report(run, folder / "report.html", images=images, title=title), "update": update}


def picture(browser: Browser, report: Path, width: int, height: int, theme: str) -> bytes:
    """The upper part of the page."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    page = context.new_page()
    page.goto(report.as_uri())
    taken = page.screenshot()
    context.close()
    return taken


def compressed(png: bytes) -> bytes:
    """The picture with as many colors as fit into the largest file that is allowed."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for colors in (256, 128, 64, 32):
        stream = io.BytesIO()
        image.quantize(colors).save(stream, "PNG", optimize=True)
        if stream.tell() <= LARGEST:
            break
    return stream.getvalue()


if __name__ == "__main__":
    main()
