"""Pictures of the types that are read, and what Pillow makes of them: `convert("RGB")`, as PNG.

Run in this folder. 16-bit pictures are not compared: Pillow cuts or clips them.
"""

import struct
import zlib

import numpy
from PIL import Image

W, H = 23, 17
y, x = numpy.mgrid[0:H, 0:W]
red = (x * 11 + y) % 256
green = (y * 15 + x * x) % 256
blue = (x * y * 3 + 40) % 256
rgb = Image.fromarray(numpy.stack([red, green, blue], 2).astype("uint8"))
alpha = Image.fromarray(((x * 12 + y * 3) % 256).astype("uint8"))
rgba = rgb.copy()
rgba.putalpha(alpha)
other = rgb.transpose(Image.Transpose.ROTATE_180)
grey = rgb.convert("L")
exif = Image.Exif()
exif[0x0112] = 6


def save(image, name, **options):
    image.save(name, **options)
    with Image.open(name) as stored:
        stored.convert("RGB").save(name + ".png")


save(rgb, "lossy.webp", quality=80)
save(rgb, "lossless.webp", lossless=True)
save(rgba, "alpha_lossy.webp", quality=90, exact=True)
save(rgba, "alpha_lossless.webp", lossless=True, exact=True)
save(rgb, "frames.webp", save_all=True, append_images=[other], lossless=True)
rgb.save("turned.webp", lossless=True, exif=exif)

save(rgb, "rgb.tif")
save(rgb, "lzw.tif", compression="tiff_lzw")
save(rgb, "deflate.tif", compression="tiff_adobe_deflate", tiffinfo={317: 2})
save(rgb, "packbits.tif", compression="packbits")
save(grey, "grey.tif")
save(grey.convert("1"), "bits.tif")
save(rgb.quantize(200), "palette.tif")
save(rgba, "alpha.tif")
save(rgba.convert("LA"), "grey_alpha.tif")
save(rgb.convert("CMYK"), "inks.tif")
save(rgb, "pages.tif", save_all=True, append_images=[other])
rgb.save("turned.tif", exif=exif)


def tiff(name, array, tags, order="<"):
    """A TIFF of one strip or of tiles, of what Pillow does not write."""
    short, long = order + "H", order + "I"
    parts = tags.pop("parts")
    body, places = b"", []
    for part in parts:
        places.append((8 + len(body), len(part)))
        body += part + b"\0" * (len(part) % 2)
    count, length = (324, 325) if 322 in tags else (273, 279)
    tags = {256: array.shape[1], 257: array.shape[0], **tags}
    tags[count] = [place for place, _ in places]
    tags[length] = [size for _, size in places]
    start, extra, entries = 8 + len(body), b"", []
    after = start + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        values = tags[tag] if isinstance(tags[tag], list) else [tags[tag]]
        wide = max(values) > 65535 or tag in (count, length)
        packed = b"".join(struct.pack(long if wide else short, v) for v in values)
        if len(packed) > 4:
            place = struct.pack(long, after + len(extra))
            extra += packed
        else:
            place = packed.ljust(4, b"\0")
        entries.append(struct.pack(order + "HHI", tag, 4 if wide else 3, len(values)) + place)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(long, start)
    directory = struct.pack(short, len(entries)) + b"".join(entries) + b"\0\0\0\0"
    open(name, "wb").write(head + body + directory + extra)


deep = (x * 2500 + y * 300).astype("uint16")
colours = numpy.stack([deep, deep[::-1], deep[:, ::-1]], 2)
tiff("deep_grey.tif", deep, {258: 16, 259: 1, 262: 1, 277: 1, "parts": [deep.tobytes()]})
tiff(
    "deep_rgb_big_endian.tif",
    deep,
    {258: [16] * 3, 259: 8, 262: 2, 277: 3, "parts": [zlib.compress(colours.astype(">u2").tobytes())]},
    ">",
)
Image.fromarray(deep).save("deep_grey.png")
planes = [numpy.asarray(band).tobytes() for band in rgb.split()]
tiff("planes.tif", grey_array := numpy.asarray(grey), {258: [8] * 3, 259: 1, 262: 2, 277: 3, 284: 2, "parts": planes})
tiff("white_is_zero.tif", grey_array, {258: 8, 259: 1, 262: 0, 277: 1, "parts": [(255 - grey_array).tobytes()]})
padded = numpy.zeros((32, 32), "uint8")
padded[:H, :W] = grey_array
tiles = [padded[i : i + 16, j : j + 16].tobytes() for i in (0, 16) for j in (0, 16)]
tiff("tiles.tif", grey_array, {258: 8, 259: 1, 262: 1, 277: 1, 322: 16, 323: 16, "parts": tiles})
four = numpy.zeros((H, 12), "uint8")
number = grey_array // 16
four[:, :] = number[:, 0::2] << 4
four[:, :11] |= number[:, 1::2]
map16 = [int(v) * 257 for v in numpy.random.default_rng(0).integers(0, 256, 48)]
tiff("palette_4.tif", grey_array, {258: 4, 259: 1, 262: 3, 277: 1, 320: map16, "parts": [four.tobytes()]})
multiplied = numpy.asarray(rgba).astype("uint32")
multiplied[..., :3] = multiplied[..., :3] * multiplied[..., 3:] // 255
tiff(
    "multiplied.tif",
    grey_array,
    {258: [8] * 4, 259: 1, 262: 2, 277: 4, 338: 1, "parts": [multiplied.astype("uint8").tobytes()]},
)
for name in ["planes", "white_is_zero", "tiles", "palette_4", "multiplied"]:
    with Image.open(name + ".tif") as stored:
        stored.convert("RGB").save(name + ".tif.png")

save(rgb, "rgb.bmp")
save(rgba, "alpha.bmp")
save(grey, "grey.bmp")
save(grey.convert("1"), "bits.bmp")
save(rgb.quantize(40), "palette.bmp")

save(rgb.quantize(60), "palette.gif", interlace=1)
save(rgb, "frames.gif", save_all=True, append_images=[other])
save(rgb.quantize(30), "alpha.gif", transparency=3)

# Over a colour.
white = Image.new("RGB", rgba.size, (255, 240, 10))
white.paste(rgba, mask=rgba.getchannel("A"))
white.save("over.png")
