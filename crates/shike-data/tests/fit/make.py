"""Pictures of other shapes in a place of their own, by Pillow. Run in this folder."""

import numpy
from PIL import Image, ImageOps

y, x = numpy.mgrid[0:11, 0:47]
wide = Image.fromarray(numpy.stack([x * 5, y * 23, (x * y * 7) % 256], 2).astype("uint8"))
wide.save("wide.png")
tall = wide.transpose(Image.Transpose.TRANSPOSE)
tall.save("tall.png")


def columns_first(image, size, filter):
    """Pillow 13 takes the rows of a tall picture first; before, it took columns always, as this project does."""
    return image.resize((size[0], image.height), filter).resize(size, filter)


for name, image in [("wide", wide), ("tall", tall)]:
    for size in [(16, 16), (20, 9), (64, 70)]:
        for method, filter in [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]:
            of = f"{name}_{size[0]}x{size[1]}_{method}.png"
            padded = ImageOps.pad(image, size, method=filter, color=(124, 116, 104))
            inner = columns_first(image, ImageOps.contain(image, size, filter).size, filter)
            place = [round((side - length) * 0.5) for side, length in zip(size, inner.size)]
            padded.paste(inner, place)
            padded.save("pad_" + of)
            columns_first(image, size, filter).save("squash_" + of)
