"""Takes turns between this project and PyTorch on the same work, weights and batch, and prints ratios.

    cargo build --release --bin shike
    python3 -m venv benches/vs_torch/venv
    benches/vs_torch/venv/bin/pip install torch torchvision safetensors numpy timm efficientnet-lite-pytorch
    benches/vs_torch/venv/bin/python benches/vs_torch/run.py
    benches/vs_torch/venv/bin/python benches/vs_torch/run.py --case pipeline --images DIR

Every case has three processes (ours, PyTorch in NCHW, PyTorch in channels_last) that do one run after
the other in turns, so that a busy machine is busy for all. The faster layout counts. Values are compared
before anything is timed. Results go to benches/vs_torch/results.json and docs/BENCHMARKS.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Case, batch (None: the case's own), goal and floor for time, goal and floor for memory.
CASES = [
    ("step/shike-resnet32", None, (1.0, 1.25), (0.5, 0.6)),
    ("eval/shike-resnet32", None, (0.9, 1.1), None),
    ("step/resnet50", None, (1.1, 1.4), None),
    ("epoch/from-loader", None, (1.03, 1.05), None),
    ("eval/resnet50", None, None, None),
    ("eval/efficientnet_lite0", None, (0.77, 0.77), (0.5, 0.5)),
    ("eval/vit_s16", None, (1.0, 1.0), (0.5, 0.5)),
    ("eval/dinov2_s14", None, (1.0, 1.0), (0.5, 0.5)),
    ("step/shike-resnet50", 4, None, None),
    ("dkt/3x100", None, (1.0, 1.0), (0.7, 0.7)),
    ("dkt/3x1000", None, (1.0, 1.0), (0.7, 0.7)),
    ("dkt/3x8142", None, (1.0, 1.0), (0.7, 0.7)),
    ("dkt/6x100", None, (1.0, 1.0), (0.7, 0.7)),
    ("dkt/6x1000", None, (1.0, 1.0), (0.7, 0.7)),
    ("dkt/6x8142", None, (1.0, 1.0), (0.7, 0.7)),
    ("balanced/3x100", None, (1.0, 1.0), (0.7, 0.7)),
    ("balanced/3x1000", None, (1.0, 1.0), (0.7, 0.7)),
    ("balanced/3x8142", None, (1.0, 1.0), (0.7, 0.7)),
    ("balanced/6x8142", None, (1.0, 1.0), (0.7, 0.7)),
]


class Side:
    def __init__(self, command, env):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.about = self.read()
        self.seconds = []
        self.value = None
        self.peak = None

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended")
        return json.loads(line)

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        said = self.read()
        self.value, self.peak = said["value"], said["peak_memory"]
        return said["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def take_turns(sides, rounds):
    """One run each to warm up, then the timed ones."""
    for side in sides:
        side.run()
    for _ in range(rounds):
        for side in sides:
            side.seconds.append(side.run())
    for side in sides:
        side.close()


def case(name, batch, args):
    env = dict(os.environ, RAYON_NUM_THREADS=str(args.threads), OMP_NUM_THREADS=str(args.threads),
               MKL_NUM_THREADS=str(args.threads))
    if args.avx2:
        env |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    with tempfile.TemporaryDirectory() as folder:
        command = [args.shike, "bench", "--serve", name, "--device", args.device,
                   "--precision", args.precision, "--exchange", folder]
        if batch or args.batch:
            command += ["--batch", str(batch or args.batch)]
        ours = Side(command, env)
        if name.startswith("epoch/"):
            return against_own(name, command, env, args)
        layouts = ["contiguous"] if name.split("/")[0] in ("dkt", "balanced") else [
            "contiguous", "channels_last"]
        theirs = {
            layout: Side([sys.executable, str(HERE / "work.py"), name, folder, layout,
                          "cuda" if args.device.startswith("cuda") else "cpu", args.precision], env)
            for layout in layouts}
        sides = [ours, *theirs.values()]
        for side in sides:
            side.run()
        values = [side.value for side in sides]
        worst = max(abs(v - values[1]) / max(abs(values[1]), 1e-9) for v in values)
        if not worst < (1e-3 if args.precision == "f32" else 5e-2):
            sys.exit(f"{name}: the values differ, {values}")
        take_turns(sides, args.rounds)
    best = min(theirs, key=lambda layout: statistics.median(theirs[layout].seconds))
    turns = sorted(a / b for a, b in zip(ours.seconds, theirs[best].seconds))
    return {
        "case": name,
        "batch": batch or args.batch or ours.about["images"],
        "values": values,
        "ours": statistics.median(ours.seconds),
        "torch": {layout: statistics.median(side.seconds) for layout, side in theirs.items()},
        "best": best,
        "ratio": statistics.median(ours.seconds) / statistics.median(theirs[best].seconds),
        "ratio_quartiles": [turns[len(turns) // 4], turns[len(turns) * 3 // 4]],
        "peak_ours": ours.peak,
        "peak_torch": theirs[best].peak,
        "memory_ratio": ours.peak / theirs[best].peak if ours.peak else None,
        "torch_version": theirs[best].about["torch"],
        "rounds": args.rounds,
        "avx2": args.avx2,
    }


def against_own(name, command, env, args):
    """An epoch fed by the loader beside the same steps on a batch in memory: both are ours."""
    sides = [Side(command, env),
             Side(["epoch/from-memory" if part == name else part for part in command], env)]
    take_turns(sides, max(10, args.rounds))
    fed, pure = sides
    turns = sorted(a / b for a, b in zip(fed.seconds, pure.seconds))
    return {
        "case": name, "batch": fed.about["images"], "ours": statistics.median(fed.seconds),
        "torch": {"steps alone": statistics.median(pure.seconds)}, "best": "steps alone",
        "ratio": statistics.median(turns),
        "ratio_quartiles": [turns[len(turns) // 4], turns[len(turns) * 3 // 4]],
        "peak_ours": fed.peak, "peak_torch": pure.peak, "memory_ratio": fed.peak / pure.peak,
        "torch_version": None, "rounds": max(10, args.rounds),
    }


# Which kernels are on, and what comes with them.
LADDER = [
    ("off", "Burn's own operations"),
    ("conv2d", "+ convolution"),
    ("conv2d,batch_norm", "+ batch normalisation, residual and ReLU as one"),
    ("conv2d,batch_norm,loss", "+ losses in one pass"),
    ("on", "+ SGD in place"),
]


def ladder(args):
    """A step of SHIKE-ResNet-32 with one kernel more in each row, in turns."""
    env = dict(os.environ, RAYON_NUM_THREADS=str(args.threads))
    command = [args.shike, "bench", "--serve", "step/shike-resnet32", "--device", args.device]
    sides = [Side(command, dict(env, SHIKE_KERNELS=kernels)) for kernels, _ in LADDER]
    take_turns(sides, args.rounds)
    rows = []
    for (kernels, what), side in zip(LADDER, sides):
        seconds = statistics.median(side.seconds)
        rows.append({"kernels": kernels, "what": what, "seconds": seconds, "peak": side.peak})
        print(f"ladder {kernels:<24} {1e3 * seconds:8.1f} ms", flush=True)
    return rows


def report(results, machine, ladder, loading):
    goals = {name: (time, memory) for name, _, time, memory in CASES}
    lines = [
        "# Benchmarks",
        "",
        "Generated by `benches/vs_torch/run.py`; do not edit. Each case takes turns with PyTorch on the same",
        "weights and the same batch, in float32; the ratio is our median time over PyTorch's in its faster",
        "memory layout, and so is the ratio of the peak memory of the two processes. Below 1 is better.",
        "`epoch/from-loader` stands beside our own steps on a batch in memory: what loading and augmentation",
        "cost a run. Where `AVX2` stands, PyTorch was held to it, as ours is.",
        "",
        f"Machine: {machine['cpu']}, {machine['threads']} threads; PyTorch {machine['torch']}.",
        "",
        "| case | commit, rounds | batch | ours, ms | PyTorch NCHW | channels_last | ratio | quartiles | goal, floor "
        "| memory, MiB | PyTorch | ratio | goal, floor |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    pair = lambda goal: "" if goal is None else f"{goal[0]:g}, {goal[1]:g}"
    for r in results:
        time, memory = goals.get(r["case"], (None, None))
        if "steps alone" in r["torch"]:
            r = dict(r, torch={"contiguous": r["torch"]["steps alone"]})
        ms = lambda layout: (f"{1e3 * r['torch'][layout]:.1f}" if layout in r["torch"] else "")
        low, high = r["ratio_quartiles"]
        mib = lambda bytes: "" if bytes is None else f"{bytes / 2**20:.0f}"
        lines.append(
            f"| {r['case']} | {r['commit']}, {r['rounds']}{', AVX2' if r.get('avx2') else ''} | {r['batch']} | {1e3 * r['ours']:.1f} | {ms('contiguous')} "
            f"| {ms('channels_last')} | **{r['ratio']:.2f}** | {low:.2f}–{high:.2f} | {pair(time)} "
            f"| {mib(r['peak_ours'])} | {mib(r['peak_torch'])} "
            f"| {'' if r['memory_ratio'] is None else format(r['memory_ratio'], '.2f')} "
            f"| {pair(memory)} |")
    if ladder:
        lines += ["", "## What each kernel is worth", "",
                  "A training step of SHIKE-ResNet-32, batch 128, in turns, with `SHIKE_KERNELS` as named.", "",
                  "| kernels | `SHIKE_KERNELS` | step, ms | of the first row | memory, MiB |",
                  "|---|---|--:|--:|--:|"]
        for row in ladder:
            lines.append(f"| {row['what']} | `{row['kernels']}` | {1e3 * row['seconds']:.0f} "
                         f"| {row['seconds'] / ladder[0]['seconds']:.2f} | {row['peak'] / 2**20:.0f} |")
    if loading:
        import pipeline
        lines += pipeline.report(loading)
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shike", default=str(ROOT / "target/release/shike"))
    parser.add_argument("--device", default="flex")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--avx2", action="store_true",
                        help="PyTorch, too, takes AVX2 where the processor has more")
    parser.add_argument("--case", action="append", help="only cases whose name holds this")
    parser.add_argument("--no-report", action="store_true", help="print, and write nothing")
    parser.add_argument("--images", help="a folder of JPEGs in class folders: measures the loader, too")
    args = parser.parse_args()
    file = HERE / "results.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    loading = None
    if args.images:
        import pipeline
        loading = pipeline.measure(ROOT, args.images, args.rounds, args.threads)
        print("\n".join(pipeline.report(loading)), flush=True)
    results = []
    for name, batch, _, _ in CASES:
        if args.case and not any(word in name for word in args.case):
            continue
        result = case(name, batch, args)
        results.append(result)
        theirs = ", ".join(f"{k} {1e3 * v:.1f}" for k, v in result["torch"].items())
        low, high = result["ratio_quartiles"]
        print(f"{name:<22} ours {1e3 * result['ours']:8.1f} ms, torch {theirs} ms: "
              f"ratio {result['ratio']:.2f} ({low:.2f}–{high:.2f}), "
              f"memory {result['memory_ratio']:.2f}", flush=True)
    steps = ladder(args) if args.case is None or "ladder" in args.case else None
    if args.no_report or not (results or steps or loading):
        return
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")]
        cpu = names[0] if names else cpu
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True,
                            capture_output=True).stdout.strip()
    # What was measured before on this machine stays where only some cases are run.
    before = known.get("machine") or {}
    if (before.get("cpu"), before.get("threads")) != (cpu, args.threads):
        known = {}
    old = {r["case"]: {"commit": before.get("commit"), **r} for r in known.get("results", [])}
    old.update({r["case"]: {**r, "commit": commit} for r in results})
    results = [old[name] for name, *_ in CASES if name in old]
    torch = [r["torch_version"] for r in results if r["torch_version"]]
    machine = {"cpu": cpu, "threads": args.threads, "torch": torch[-1] if torch else None}
    write(file, results, machine, steps or known.get("ladder"), loading or known.get("loading"))


# What follows it in BENCHMARKS.md was measured otherwise, and stays.
BY_HAND = "\n<!-- Written by hand from here on. -->\n"


def write(file, results, machine, steps, loading):
    everything = {"machine": machine, "results": results, "ladder": steps, "loading": loading}
    file.write_text(json.dumps(everything, indent=1) + "\n")
    doc = ROOT / "docs/BENCHMARKS.md"
    _, mark, by_hand = doc.read_text().partition(BY_HAND)
    doc.write_text(report(results, machine, steps, loading) + mark + by_hand)


main()
