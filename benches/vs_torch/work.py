"""Does one case's work in PyTorch, once for each line on standard input.

    work.py CASE FOLDER FORMAT [DEVICE] [PRECISION]

FOLDER has the weights and the batch that `shike bench --serve CASE --exchange FOLDER` wrote, FORMAT is
`contiguous` or `channels_last`.
"""

import json
import resource
import sys
import time
import warnings
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import models

warnings.filterwarnings("ignore")  # `reduction: 'mean'` of kl_div, which is what the code has


def main():
    case, folder, layout = sys.argv[1:4]
    device = sys.argv[4] if len(sys.argv) > 4 else "cpu"
    precision = sys.argv[5] if len(sys.argv) > 5 else "f32"
    kind, what = case.split("/")
    batch = {k: v.to(device) for k, v in load_file(f"{folder}/batch.safetensors").items()}
    cast = (torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext())
    # As Burn does by default; PyTorch would otherwise round float32 products on a GPU or not by version.
    torch.set_float32_matmul_precision("high")

    if kind in ("dkt", "balanced"):
        outs = [v.requires_grad_() for _, v in sorted(batch.items())]
        classes = outs[0].shape[1]
        labels = (torch.arange(outs[0].shape[0], device=device) * 37) % classes
        counts = torch.tensor([1 + 1280 // (c + 1) for c in range(classes)], device=device).float()

        def run():
            for o in outs:
                o.grad = None
            loss = models.dkt(outs, labels) if kind == "dkt" else models.balanced(outs, labels, counts)
            loss.backward()
            return loss
    else:
        format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        model = models.network(what)
        models.load(model, load_file(f"{folder}/weights.safetensors"))
        model = model.to(device).to(memory_format=format)
        images = batch["images"].to(memory_format=format)
        labels = batch["labels"]
        if kind == "eval":
            model.eval()

            def run():
                with torch.inference_mode(), cast:
                    out = model(images)
                    mean = sum(out) / len(out) if isinstance(out, list) else out
                    return mean.abs().mean()
        else:
            optimizer = torch.optim.SGD(
                model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

            def run():
                with cast:
                    out = model(images)
                outs = [o.float() for o in out] if isinstance(out, list) else out.float()
                loss = (models.dkt(outs, labels) if isinstance(outs, list)
                        else F.cross_entropy(outs, labels))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                return loss

    print(json.dumps({"torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        loss = run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        if device.startswith("cuda"):
            peak = torch.cuda.max_memory_reserved()
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "value": loss.item(), "peak_memory": peak}), flush=True)


main()
