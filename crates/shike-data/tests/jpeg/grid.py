"""Writes JPEGs of every sampling, mode and kind of scan script, each with its pixels by libjpeg-turbo.

    python grid.py FOLDER          # 9,000 files; needs cjpeg (libjpeg-turbo-progs), Pillow and NumPy
    SHIKE_JPEG_GRID=FOLDER cargo test --test photo -- --ignored libjpeg

`python grid.py --small .` in this folder writes the few that are kept here. `read_…` have to be read, within
2 of 255 on average; `refused_…` are of the kinds that are refused.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

USUAL = ["1x1", "2x1", "2x2", "1x2", "4x1", "4x2", "1x4", "2x4", "2x2,2x1,1x1", "2x2,1x2,1x2", "2x1,2x1,1x1"]
ODD = ["1x1,2x2", "1x1,2x1,1x1", "1x1,1x2", "2x1,1x2", "3x1"]
SIZES = [(1, 1), (7, 9), (8, 8), (16, 16), (17, 15), (33, 31), (64, 48), (75, 101), (130, 9), (5, 90), (96, 128)]
SCANS = {
    "sequential": "0; 1; 2;",
    "sequential2": "0; 1 2;",
    "spectral": "0,1,2: 0-0, 0, 0; 0: 1-63, 0, 0; 1: 1-63, 0, 0; 2: 1-63, 0, 0;",
    "successive": "0: 0-0, 0, 1; 1: 0-0, 0, 1; 2: 0-0, 0, 1; 0: 1-5, 0, 2; 0: 6-63, 0, 2; 1: 1-63, 0, 1;"
    "2: 1-63, 0, 1; 0: 1-63, 2, 1; 0: 1-63, 1, 0; 1: 1-63, 1, 0; 2: 1-63, 1, 0; 0,1,2: 0-0, 1, 0;",
    "backwards": "1 2: 0-0, 0, 0; 0: 0-0, 0, 0; 2: 1-63, 0, 0; 1: 1-63, 0, 0; 0: 1-63, 0, 0;",
}
MODES = {
    "baseline": [],
    "optimised": ["-optimize"],
    "progressive": ["-progressive"],
    "rgb": ["-rgb"],
    "rgbprogressive": ["-rgb", "-progressive"],
    "grey": ["-grayscale"],
    "greyprogressive": ["-grayscale", "-progressive"],
    "arithmetic": ["-arithmetic"],
}
REFUSED = {"sequential", "sequential2", "arithmetic"}


def picture(width, height):
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(x / 9 + y / 17), 128 + 90 * np.cos(x / 13 - y / 7), 128 + 80 * np.sin((x + y) / 11)]
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    pixels = (np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)
    return b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()


def write(folder, size, sampling, restart, mode, arguments):
    made = subprocess.run(
        ["cjpeg", "-quality", "90", "-sample", sampling, *restart, *arguments],
        input=picture(*size), capture_output=True,
    )
    if made.returncode or not made.stdout:
        return  # more blocks in a unit than are allowed
    grey = mode.startswith("grey")
    refused = mode in REFUSED or (sampling in ODD and (not grey or sampling == "3x1"))
    name = f"{'refused' if refused else 'read'}_{size[0]}x{size[1]}_{sampling.replace(',', '+')}_{mode}"
    path = folder / (name + (f"_restart{restart[1]}" if restart else ""))
    path.with_suffix(".jpg").write_bytes(made.stdout)
    if not refused:
        Image.open(io.BytesIO(made.stdout)).convert("RGB").save(path.with_suffix(".png"), optimize=True)


def main():
    small = sys.argv[1] == "--small"
    folder = Path(sys.argv[-1])
    with tempfile.TemporaryDirectory() as scripts:
        modes = dict(MODES)
        for name, text in SCANS.items():
            script = Path(scripts) / name
            script.write_text(text)
            modes[name] = ["-scans", str(script)]
        if small:
            for sampling, restart, mode in [
                ("2x2", [], "successive"), ("1x2", [], "baseline"), ("4x1", ["-restart", "1"], "baseline"),
                ("4x2", [], "spectral"), ("2x1", [], "backwards"), ("1x1", ["-restart", "3B"], "rgb"),
                ("2x2", [], "sequential"), ("1x1,2x2", [], "baseline"), ("1x1,2x2", [], "progressive"),
                ("2x2", [], "arithmetic"),
            ]:
                write(folder, (37, 28), sampling, restart, mode, modes[mode])
            return
        for size in SIZES:
            for sampling in USUAL + ODD:
                for restart in [], ["-restart", "1"], ["-restart", "5B"]:
                    for mode, arguments in modes.items():
                        write(folder, size, sampling, restart, mode, arguments)


main()
