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


def uniform(name, count):
    """`count` numbers in [0, 1) that depend on the name alone."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    x = (np.arange(count, dtype=np.uint64) * 2654435761 + seed) & 0xFFFFFFFF
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return (x ^ (x >> 16)).astype(np.float64) / 2.0**32


def values(name, shape):
    u = uniform(name, int(np.prod(shape)))
    if name == "input":
        x = 3.4 * u - 1.7
    elif len(shape) > 1:
        fan_in = float(np.prod(shape[1:]))
        x = (2.0 * u - 1.0) * np.sqrt((6.0 if len(shape) == 4 else 3.0) / fan_in)
    elif name.endswith("running_var"):
        x = 0.5 + u
    elif name.endswith("running_mean"):
        x = 0.4 * u - 0.2
    elif name.endswith(("bn2.weight", "bn3.weight")):
        # Small, so that logits stay of the size that trained networks have.
        x = 0.1 + 0.2 * u
    elif name.endswith("weight"):
        x = 0.5 + u
    else:
        x = u - 0.5
    return torch.from_numpy(x.reshape(shape))


def fill(model):
    state = model.state_dict()
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            tensor.copy_(values(name, tuple(tensor.shape)))
    model.load_state_dict(state)
    return model


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
