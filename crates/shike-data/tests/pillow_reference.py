"""Prints the table of tests/pillow.rs: what timm, torchvision and Pillow make of a drawn image.

    python3 -m venv venv && venv/bin/pip install torch torchvision timm
    venv/bin/python crates/shike-data/tests/pillow_reference.py

Written with timm 1.0.31, torchvision 0.29.2 and Pillow 13.0.0.
"""

import random

import numpy as np
from PIL import Image, ImageFilter
from timm.data import auto_augment as timm
from torchvision.transforms import functional as F

WIDTH, HEIGHT = 45, 37
FILL = (124, 116, 104)

y, x = np.mgrid[:HEIGHT, :WIDTH]
IMAGE = Image.fromarray(np.stack([
    x * 5 + y % 7 * 3, (x * y * 3 + 40) % 256, (x * x + y * 29) % 251], 2).astype(np.uint8))


def checksum(image):
    """FNV-1a, 32 bits."""
    sum = 0x811C9DC5
    for byte in image.tobytes():
        sum = ((sum ^ byte) * 0x01000193) & 0xFFFFFFFF
    return sum


def argument(name, magnitude, sign):
    timm._randomly_negate = lambda v: sign * v
    level = timm.LEVEL_TO_ARG[name]
    return level(magnitude, {"translate_pct": 0.45}) if level else ()


assert timm.rand_augment_transform("rand-m10-n2-mstd0.5").num_layers == 2
print("const ARGUMENTS: [(&str, [f64; 4]); 15] = [")
for op in timm.rand_augment_transform("rand-m10-n2-mstd0.5").ops:
    assert (op.prob, op.magnitude, op.magnitude_std) == (0.5, 10, 0.5)
    values = [float((argument(op.name, m, 1) or (0,))[0]) for m in (0.0, 3.3, 9.4, 10.0)]
    print(f'    ("{op.name}", {values!r}),')
print("];")

print("const TIMM: [(&str, f64, bool, u32); _] = [")
for name in timm._RAND_TRANSFORMS:
    for magnitude, sign in ((9.4, 1), (3.3, -1)):
        for bicubic in (False, True) if name[:3] in ("Rot", "She", "Tra") else (False,):
            args = argument(name, magnitude, sign)
            resample = Image.BICUBIC if bicubic else Image.BILINEAR
            out = timm.NAME_TO_OP[name](IMAGE, *args, fillcolor=FILL, resample=resample)
            print(f'    ("{name}", {sign * magnitude}, {str(bicubic).lower()}, {checksum(out):#010x}),')
print("];")

print("const RESIZED: [(u32, u32, bool, u32); _] = [")
for size in ((32, 32), (17, 37), (45, 9), (90, 80), (1, 1), (44, 200)):
    for bicubic in (False, True):
        out = IMAGE.resize(size, Image.BICUBIC if bicubic else Image.BILINEAR)
        print(f"    ({size[0]}, {size[1]}, {str(bicubic).lower()}, {checksum(out):#010x}),")
print("];")

print("const OTHERS: [(&str, f64, u32); _] = [")
for radius in (0.1, 0.3, 0.7, 1.0, 1.6, 2.0, 5.5):
    print(f'    ("blur", {radius}, {checksum(IMAGE.filter(ImageFilter.GaussianBlur(radius))):#010x}),')
for factor in (-0.5, -0.1, -0.03, 0.05, 0.1, 0.37, 0.5):
    print(f'    ("hue", {factor}, {checksum(F.adjust_hue(IMAGE, factor)):#010x}),')
for name, op in [("brightness", F.adjust_brightness), ("contrast", F.adjust_contrast),
                 ("saturation", F.adjust_saturation)]:
    for factor in (0.6, 1.33):
        print(f'    ("{name}", {factor}, {checksum(op(IMAGE, factor)):#010x}),')
print(f'    ("grayscale", 0.0, {checksum(F.rgb_to_grayscale(IMAGE, 3)):#010x}),')
print(f'    ("source", 0.0, {checksum(IMAGE):#010x}),')
print("];")
