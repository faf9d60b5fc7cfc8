"""Weights and logits of torchvision's and timm's networks, to check the import against.

    python -m venv venv && venv/bin/pip install torch torchvision timm safetensors
    venv/bin/python crates/shike-model/tests/torchvision_reference.py FOLDER
    SHIKE_TORCHVISION=FOLDER cargo test --workspace --test torchvision -- --ignored

Every tensor is filled by a formula (`fill`) that the Rust test has too, running statistics
included, so that nothing is trivial and nothing has to be downloaded. For the large networks the
folder gets a .pth, a .safetensors and the logits; for three small ones the numbers that
`torchvision.rs` holds are printed.
"""

import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from formula import fill, values


def large(folder):
    networks = {
        "resnet18": torchvision.models.resnet18,
        "resnet50": torchvision.models.resnet50,
        "resnet152": torchvision.models.resnet152,
        "resnext50": torchvision.models.resnext50_32x4d,
        "timm_resnet50": lambda: timm.create_model("resnet50"),
        "timm_resnext50": lambda: timm.create_model("resnext50_32x4d"),
    }
    x = values("input", (2, 3, 96, 96)).float()
    for name, make in networks.items():
        model = fill(make()).eval()
        with torch.no_grad():
            logits = model(x)
        state = model.state_dict()
        torch.save(state, folder / f"{name}.pth")
        save_file(state, folder / f"{name}.safetensors")
        save_file({"logits": logits.contiguous()}, folder / f"{name}_logits.safetensors")
        params = sum(p.numel() for p in model.parameters())
        print(f"{name}: {params} parameters, logits of size {logits.abs().max():.3f}")


def small():
    networks = {
        "resnet10": lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5),
        "bottleneck": lambda: ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5),
        "resnext": lambda: ResNet(
            Bottleneck, [1, 1, 1, 1], num_classes=5, groups=32, width_per_group=4
        ),
    }
    x = values("input", (2, 3, 75, 64))
    for name, make in networks.items():
        model = fill(make().double())
        with torch.no_grad():
            eval_logits = model.eval()(x)
        train_logits = model.train()(x)
        loss = torch.nn.functional.cross_entropy(train_logits, torch.tensor([1, 3]))
        loss.backward()
        print(name)
        print("  eval", [f"{v:.12g}" for v in eval_logits.flatten().tolist()])
        print("  loss", f"{loss.item():.12g}")
        for key, p in model.named_parameters():
            if key in ("conv1.weight", "layer2.0.conv2.weight", "layer3.0.downsample.0.weight",
                       "layer4.0.bn2.weight"):
                norm = p.grad.norm().item()
                dot = (p.grad * values("probe", tuple(p.shape))).sum().item()
                print(f"  {key} {norm:.12g} {dot:.12g}")
        print("  layer4.0.bn2.running_var", f"{model.layer4[0].bn2.running_var.sum():.12g}")


if __name__ == "__main__":
    small()
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True, exist_ok=True)
        large(folder)
