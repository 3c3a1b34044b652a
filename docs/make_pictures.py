"""The pictures of HTML reports in these documents: digits with 40% wrong labels, wide and narrow, light and dark.

    python docs/make_pictures.py

trains the standard model of `examples/digits` with three seeds, writes the report of the first one and that of its
update by the second one, with the third one as a noise floor, and takes the top of them in Chromium.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import lightning.pytorch as pl
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from lightning_flip.reports import write_report, write_update_report

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "examples"))
sys.path.insert(0, str(DOCS.parent / "examples" / "digits"))
from _shared import build, on_one_quiet_thread  # noqa: E402
from demo import CONFIGS, fit  # noqa: E402

WIDTHS = {390: "narrow", 1280: "wide"}
THEMES = ("light", "dark")
HEIGHT = 1600
LARGEST = 150_000  # bytes of a picture
CONFIG = CONFIGS / "standard.yaml"


def make_reports(folder: Path, epochs: int) -> dict[str, Path]:
    """Train on digits, and write the two reports with their pictures."""
    runs = [folder / f"seed-{seed}" for seed in range(3)]
    for seed, run in enumerate(runs):
        fit(CONFIG, run, seed, epochs, pl.Callback())
    data = build(CONFIG, "--trainer.logger=false").datamodule
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    old, new, further = (run / "predictions.parquet" for run in runs)
    update = write_update_report(
        old,
        new,
        folder / "update.html",
        max_nfr=0.05,
        floor=[further],
        images=lambda name: data.test_set.dataset[int(name)],  # ids are positions in the whole dataset
        title="Digits: another seed replaces the standard model",
    )
    title = "Digits, 40% wrong labels"
    return {
        "report": write_report(runs[0], folder / "report.html", images=data.train_set, title=title),
        "update": update,
    }


def take(browser: Browser, report: Path, width: int, theme: str) -> Image.Image:
    """The top of a report in a window of this width, down to the last sample of its list that is seen whole."""
    page = browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme=theme)  # type: ignore[arg-type]
    page.goto(report.as_uri())
    boxes = [row.bounding_box() for row in page.locator("#suspect-rows tr").all()]
    ends = [box["y"] + box["height"] for box in boxes if box is not None]
    height = max((end for end in ends if end <= HEIGHT), default=HEIGHT)
    shot = page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height})
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    page.close()
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30, help="epochs of the fit (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=DOCS / "pictures", help="a folder (default: %(default)s)")
    options = parser.parse_args()
    path = os.environ.get("LIGHTNING_FLIP_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        parser.exit(1, "There is no Chromium: install it, or name it in LIGHTNING_FLIP_BROWSER.\n")
    on_one_quiet_thread()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        reports = make_reports(Path(folder), options.epochs)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for (kind, report), (width, name), theme in itertools.product(reports.items(), WIDTHS.items(), THEMES):
            picture = options.out / f"{kind}-{name}-{theme}.webp"
            take(browser, report, width, theme).save(picture, lossless=True, method=6)
            if (size := picture.stat().st_size) > LARGEST:
                parser.exit(1, f"{picture} has {size} bytes, more than {LARGEST}.\n")
            print(f"{picture}: {size // 1000} kB")
        browser.close()


if __name__ == "__main__":
    main()
