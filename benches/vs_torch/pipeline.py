"""Takes turns between this project's loader and torchvision's two ways on the same JPEGs and crops.

`run.py --images DIR` calls it. Each side reads the files, decodes, crops and resizes to 224 pixels
(bilinear, antialiased), flips, and normalises to float32 planes. Pixels are compared first. Per core
means processor time of one thread; with workers, wall time of an epoch in batches of 32.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import functional as F
from torchvision.transforms.v2 import functional as V

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Goal and floor of the speed over torchvision's.
GOALS = {"pillow": (2.0, 1.8), "v2": (1.45, 1.3)}


def pillow(job, size, floats=True):
    path, top, left, height, width, flip = job
    image = F.resized_crop(Image.open(path).convert("RGB"), top, left, height, width, [size, size],
                           F.InterpolationMode.BILINEAR, antialias=True)
    image = F.hflip(image) if flip else image
    if not floats:
        return F.pil_to_tensor(image)
    return F.normalize(F.to_tensor(image), MEAN, STD)


def v2(job, size, floats=True):
    path, top, left, height, width, flip = job
    image = V.resized_crop(decode_jpeg(read_file(path), mode=ImageReadMode.RGB), top, left, height,
                           width, [size, size], V.InterpolationMode.BILINEAR, antialias=True)
    image = V.horizontal_flip(image) if flip else image
    if not floats:
        return image
    return V.normalize(V.to_dtype(image, torch.float32, scale=True), MEAN, STD)


THEIRS = {"pillow": pillow, "v2": v2}


class Jobs(Dataset):
    def __init__(self, jobs, size, make):
        self.jobs, self.size, self.make = jobs, size, make

    def __len__(self):
        return len(self.jobs)

    def __getitem__(self, i):
        return self.make(self.jobs[i], self.size), i


class Ours:
    def __init__(self, command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended")
        return json.loads(line)

    def run(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def built(root):
    """The benchmark's program."""
    done = subprocess.run(
        ["cargo", "bench", "-p", "shike-data", "--bench", "pipeline", "--no-run",
         "--message-format=json"], cwd=root, text=True, stdout=subprocess.PIPE, check=True)
    for line in done.stdout.splitlines():
        said = json.loads(line)
        if said.get("executable") and said["target"]["name"] == "pipeline":
            return said["executable"]
    sys.exit("cargo built no program `pipeline`")


def measure(root, images, rounds, workers):
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    ours = Ours([built(root), "--serve", "--images", str(Path(images).resolve())])
    size = ours.about["size"]
    # The folder has to hold JPEGs alone: torchvision's decoder takes nothing else.
    jobs = ours.about["crops"]
    n = len(jobs)

    differ = {}
    with tempfile.NamedTemporaryFile() as file:
        ours.run(f"pixels {file.name}")
        found = np.fromfile(file.name, np.uint8).reshape(n, size, size, 3).astype(np.int16)
    for name, make in THEIRS.items():
        sums = [np.abs(found[i] - make(job, size, False).permute(1, 2, 0).numpy()).mean()
                for i, job in enumerate(jobs)]
        differ[name] = float(np.mean(sums))
        if not differ[name] <= 0.2:
            sys.exit(f"pixels differ from {name} by {differ[name]:.3f} of 255 on average")

    def core(make):
        started = time.process_time()
        for job in jobs:
            make(job, size)
        return time.process_time() - started

    def loader(make):
        # As in training, workers are started once; the first batch waits for them.
        data = DataLoader(Jobs(jobs, size, make), 32, num_workers=workers, persistent_workers=True)
        for _ in data:
            pass
        started = time.perf_counter()
        for _ in data:
            pass
        return time.perf_counter() - started

    cpu = {"ours": [], "ours_u8": [], **{name: [] for name in THEIRS}}
    wall = {"ours": [], "ours_one": [], **{name: [] for name in THEIRS}}
    alu = {1: [], workers: []}
    peak = None
    for _ in range(rounds):
        cpu["ours"].append(ours.run("core")["cpu"])
        cpu["ours_u8"].append(ours.run("core-u8")["cpu"])
        for name, make in THEIRS.items():
            cpu[name].append(core(make))
        wall["ours_one"].append(ours.run("loader 1")["wall"])
        said = ours.run(f"loader {workers}")
        wall["ours"].append(said["wall"])
        peak = said["peak"]
        for name, make in THEIRS.items():
            wall[name].append(loader(make))
        for threads in alu:
            alu[threads].append(ours.run(f"alu {threads}")["wall"])
    ours.close()

    def ratio(seconds, name):
        turns = sorted(t / o for o, t in zip(seconds["ours"], seconds[name]))
        return [turns[len(turns) // 2], turns[len(turns) // 4], turns[len(turns) * 3 // 4]]

    median = statistics.median
    scaling = [workers * a / b for a, b in zip(alu[1], alu[workers])]
    return {
        "images": n, "size": size, "workers": workers, "rounds": rounds,
        "torch": torch.__version__, "differ": differ,
        "per_core": {k: n / median(v) for k, v in cpu.items()},
        "loader": {k: n / median(v) for k, v in wall.items()},
        "per_core_ratio": {name: ratio(cpu, name) for name in THEIRS},
        "loader_ratio": {name: ratio(wall, name) for name in THEIRS},
        # Work of one thread done by all, over the same for a loop that needs the processor alone.
        "scaling": median(a / b for a, b in zip(wall["ours_one"], wall["ours"])),
        "alu_scaling": median(scaling),
        "peak": peak,
    }


def report(r):
    names = {"pillow": "torchvision + Pillow", "v2": "torchvision v2 + decode_jpeg"}
    lines = [
        "",
        "## From JPEG files to batches",
        "",
        f"{r['images']} photographs, RandomResizedCrop({r['size']}), flip and normalisation to float32 planes,",
        f"with the same crops on all sides, in turns. Above 1 is faster. Loaders have {r['workers']} workers.",
        "",
        f"Ours: {r['per_core']['ours']:.0f} images a second per core ({r['per_core']['ours_u8']:.0f} as bytes for "
        f"a GPU), {r['loader']['ours']:.0f} through the loader.",
        f"{r['workers']} threads are {r['scaling']:.2f} times as fast as one; a loop that needs the processor "
        f"alone scales to {r['alu_scaling']:.2f}.",
        *([f"Peak memory: {r['peak'] / 2**20:.0f} MiB."] if r["peak"] else []),
        "",
        "| against | per core, images/s | ratio | quartiles | as a loader, images/s | ratio | quartiles "
        "| goal, floor | pixels differ by, of 255 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, label in names.items():
        core, loader = r["per_core_ratio"][name], r["loader_ratio"][name]
        lines.append(
            f"| {label} | {r['per_core'][name]:.0f} | **{core[0]:.2f}** | {core[1]:.2f}–{core[2]:.2f} "
            f"| {r['loader'][name]:.0f} | **{loader[0]:.2f}** | {loader[1]:.2f}–{loader[2]:.2f} "
            f"| {GOALS[name][0]:g}, {GOALS[name][1]:g} | {r['differ'][name]:.3f} |")
    return lines
