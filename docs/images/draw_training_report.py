#!/usr/bin/env python3
r"""Draw `training_report.png`: the beginning of a training's page, and one of its worst cases. Needs Chromium.

    scripts/make_phantoms.py -o /tmp/phantoms --count 10 --seed 40 --shape 128 128 40 --phase arterial --tumors 4 \
        --with-labels
    scripts/train.py /tmp/phantoms -o /tmp/run --device cpu --epochs 8 --start starter --conf training.patch_size 128 \
        --conf training.slices_per_case 16 --conf training.learning_rate 0.0003 \
        --conf training.validation_fraction 0.3 --conf training.cross_validate_below 0
    .venv/bin/python docs/images/draw_training_report.py /tmp/run/report.html

All images on it are synthetic.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 1000, 6000
# (top, bottom) in pixels of the page: down to the facts of the training; the first of the worst cases
PARTS = (0, 1162), (2618, 3700)
BACKGROUND = "#f4f6f8"  # of the page
GAP = 24


def main() -> None:
    """Take a picture of the page and put its parts side by side."""
    page = Path(sys.argv[1]).resolve()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}",
             f"--screenshot={shot}", page.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        whole = Image.open(shot).convert("RGB")
    picture = Image.new("RGB", (2 * WIDTH + GAP, max(bottom - top for top, bottom in PARTS)), BACKGROUND)
    for number, (top, bottom) in enumerate(PARTS):
        picture.paste(whole.crop((0, top, WIDTH, bottom)), (number * (WIDTH + GAP), 0))
    small = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.LANCZOS)
    # By octree, which keeps the rare colors of the outlines.
    small.quantize(192, Image.Quantize.FASTOCTREE).save(Path(__file__).with_name("training_report.png"), optimize=True)


if __name__ == "__main__":
    main()
