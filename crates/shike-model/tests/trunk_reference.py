"""Features of whole backbones in PyTorch, to check ours against.

    python -m venv venv && venv/bin/pip install torch timm efficientnet-lite-pytorch safetensors
    venv/bin/python crates/shike-model/tests/trunk_reference.py [FOLDER]
    SHIKE_TRUNKS=FOLDER cargo test --workspace --test trunks -- --ignored

Weights are filled by the formula of `torchvision_reference.py`. It prints the numbers that `trunks.rs` holds: for
each depth the norm of the vector and its product with a probe. With a folder it writes weights and vectors of every
network at its own image size.

DINOv2's own code is not on PyPI: timm's transformer has the same blocks, and the table of positions is brought to
the size of the input here, as `interpolate_pos_encoding` of DINOv2 does.
"""

import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from timm.models.vision_transformer import VisionTransformer

from formula import fill, values

torch.set_grad_enabled(False)


def lite(number, size):
    name = f"efficientnet-lite{number}"
    model = EfficientNet.from_name(name, image_size=size).double().eval()
    fill(model)
    ends = []
    count = 0
    for args in model._blocks_args:
        last = args is model._blocks_args[-1] or args is model._blocks_args[0]
        repeats = args.num_repeat if last else int(np.ceil(args.num_repeat * model._global_params.depth_coefficient))
        count += repeats
        ends.append(count - 1)
    # The last block of each layer: a stage, or the second of two of one stride.
    wanted = [ends[0], ends[1], ends[2], ends[4], ends[6]]

    def features(x):
        out = []
        x = model._swish(model._bn0(model._conv_stem(x)))
        for i, block in enumerate(model._blocks):
            x = block(x)
            if i in wanted:
                out.append(x.mean((2, 3)))
        x = model._swish(model._bn1(model._conv_head(x)))
        out.append(x.mean((2, 3)))
        return out

    return model, features


def vit(width, patch, table, registers, scaled, size):
    """`size` is [height, width]."""
    model = VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=width,
        depth=12,
        num_heads=width // 64,
        init_values=1.0 if scaled else None,
        reg_tokens=registers,
        num_classes=0,
        no_embed_class=True,
        global_pool="token",
    )
    model = model.double().eval()
    state = model.state_dict()
    for name, tensor in state.items():
        if name not in ("pos_embed", "reg_token"):
            tensor.copy_(values(name, tuple(tensor.shape)))
    positions = values("pos_embed", (1, 1 + table * table, width))
    full = {k: v.clone() for k, v in state.items() if k not in ("pos_embed", "reg_token")}
    full["pos_embed"] = positions
    model.cls_token.copy_(state["cls_token"] + positions[:, :1])
    if registers:
        model.reg_token.copy_(values("register_tokens", (1, registers, width)))
        full["register_tokens"] = model.reg_token.clone()
    h, w = size[0] // patch, size[1] // patch
    grid = positions[:, 1:].reshape(1, table, table, width).permute(0, 3, 1, 2)
    if scaled and not registers and (h, w) != (table, table):
        factor = ((h + 0.1) / table, (w + 0.1) / table)
        grid = F.interpolate(grid, scale_factor=factor, mode="bicubic", antialias=False)
    elif (h, w) != (table, table):
        grid = F.interpolate(grid, size=(h, w), mode="bicubic", antialias=True)
    assert grid.shape[-2:] == (h, w)
    model.pos_embed.copy_(grid.permute(0, 2, 3, 1).reshape(1, h * w, width))

    def features(x):
        out = []
        x = model.patch_embed(x)
        x = model._pos_embed(x)
        for i, block in enumerate(model.blocks):
            x = block(x)
            if i == 11:
                x = model.norm(x)
            if i % 3 == 2:
                out.append(torch.cat([x[:, 0], x[:, 1 + registers :].mean(1)], 1))
        return out

    return full, features


def report(name, features, size):
    x = values("input", (1, 3, *size))
    found = []
    for vector in features(x):
        vector = vector[0]
        probe = values("probe", (1, vector.numel()))[0]
        found.append((vector.norm().item(), (vector * probe).sum().item()))
    print(f'        ("{name}", {list(size)}, &{[(round(n, 9), round(p, 9)) for n, p in found]}),'.replace("(round", ""))


CASES = {
    "efficientnet_lite0": lambda size: lite(0, size[0]),
    "efficientnet_lite1": lambda size: lite(1, size[0]),
    "efficientnet_lite2": lambda size: lite(2, size[0]),
    "vit_s16": lambda size: vit(384, 16, 14, 0, False, size),
    "vit_b16": lambda size: vit(768, 16, 14, 0, False, size),
    "dinov2_s14": lambda size: vit(384, 14, 37, 0, True, size),
    "dinov2_b14": lambda size: vit(768, 14, 37, 0, True, size),
    "dinov2_s14_reg": lambda size: vit(384, 14, 37, 4, True, size),
    "dinov2_b14_reg": lambda size: vit(768, 14, 37, 4, True, size),
}

if __name__ == "__main__":
    small = {
        "efficientnet_lite0": (64, 64),
        "efficientnet_lite1": (50, 50),
        "efficientnet_lite2": (64, 64),
        "vit_s16": (64, 96),
        "dinov2_s14": (56, 84),
        "dinov2_s14_reg": (70, 56),
    }
    for name, size in small.items():
        report(name, CASES[name](size)[1], size)
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        folder.mkdir(exist_ok=True)
        for name, case in CASES.items():
            side = {"efficientnet_lite1": 240, "efficientnet_lite2": 260}.get(name, 224)
            model, features = case((side, side))
            state = model if isinstance(model, dict) else model.state_dict()
            torch.save({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, folder / f"{name}.pth")
            x = values("input", (2, 3, side, side))
            vectors = torch.cat(features(x), 1).float()
            from safetensors.torch import save_file

            save_file({"vectors": vectors}, folder / f"{name}.safetensors")
            print(name, tuple(vectors.shape))
        # The same in timm's layout, by timm's own code.
        for ours, theirs in {
            "efficientnet_lite0": "tf_efficientnet_lite0",
            "efficientnet_lite2": "tf_efficientnet_lite2",
            "dinov2_s14_reg": "vit_small_patch14_reg4_dinov2",
        }.items():
            options = {"img_size": 518} if "vit" in theirs else {}
            model = fill(timm.create_model(theirs, **options).double().eval())
            state = {k: v.float() for k, v in model.state_dict().items()}
            save_file(state, folder / f"timm_{ours}.safetensors")
            side = {"efficientnet_lite2": 260}.get(ours, 518 if "vit" in theirs else 224)
            last = model.forward_features(values("input", (1, 3, side, side)))
            last = last.mean((2, 3)) if last.dim() == 4 else last[:, 0]
            save_file({"last": last.float()}, folder / f"timm_{ours}_last.safetensors")
