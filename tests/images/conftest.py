"""Image files of every kind that somebody may put into a folder, made by hand."""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image


SIDE = 24


@dataclass(frozen=True)
class Specimen:
    """One file.

    Attributes:
        data: Its bytes.
        reason: Why it is left out; None if it is read.
        pixels: What it shows, (24, 24, 3) uint8, where it is read.
        off: How far a pixel may be off; a lossy format is.
    """

    data: bytes
    reason: str | None = None
    pixels: Any = None
    off: int = 0


def chunk(kind: bytes, body: bytes, *, check: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if check is None else check
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(
    width: int,
    height: int,
    raw: bytes,
    *,
    depth: int = 8,
    color: int = 2,
    interlaced: int = 0,
    before: bytes = b"",
    end: bytes = chunk(b"IEND", b""),
) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    body = chunk(b"IDAT", zlib.compress(raw, 1)) if raw else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + body + end


def picture() -> np.ndarray:
    """Colours, different in every corner: (24, 24, 3) uint8."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    return np.stack([10 * y, 10 * x, 5 * (x + y)], axis=-1).astype(np.uint8)


def lines(pixels: np.ndarray) -> bytes:
    """PNG scan lines without a filter."""
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def adam7(pixels: np.ndarray) -> bytes:
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    passes.append((1, 0, 2, 1))
    return b"".join(lines(pixels[top::down, left::right]) for top, left, down, right in passes)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(entries: list[tuple[int, int, int, int]], rest: bytes = b"") -> bytes:
    """A little-endian TIFF: (tag, type, count, value) in order; ``rest`` begins at byte 8."""
    at = 8 + len(rest)
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    directory = struct.pack("<H", len(entries)) + body + b"\0\0\0\0"
    return b"II*\0" + struct.pack("<I", at) + rest + directory


def grey_tiff(width: int, height: int, bits: int, kind: int, raw: bytes) -> bytes:
    """Strip-wise grey of any depth; ``kind`` 1 unsigned, 2 signed, 3 float."""
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height)]
    return tiff([*entries, (279, 4, 1, len(raw)), (339, 3, 1, kind)], raw)


def tiled_tiff(tile: int) -> bytes:
    raw = np.zeros((32, 32), np.uint8)
    raw[:SIDE, :SIDE] = picture()[:, :, 0]
    entries = [(256, 4, 1, SIDE), (257, 4, 1, SIDE), (258, 3, 1, 8), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 1), (277, 3, 1, 1), (322, 4, 1, tile), (323, 4, 1, tile)]
    return tiff([*entries, (324, 4, 1, 8), (325, 4, 1, raw.size)], raw.tobytes())


def grey(plane: np.ndarray) -> np.ndarray:
    return np.repeat(plane[:, :, None], 3, axis=2)


def _pngs(made: dict[str, Specimen]) -> None:
    rgb, red = picture(), picture()[:, :, 0]
    image, plane = Image.fromarray(rgb), Image.fromarray(red)
    made["png rgb"] = Specimen(saved(image, "PNG"), None, rgb)
    made["png grey"] = Specimen(saved(plane, "PNG"), None, grey(red))
    half = image.convert("RGBA")
    half.putalpha(0)
    made["png transparent"] = Specimen(saved(half, "PNG"), None, np.full_like(rgb, 255))
    made["png grey alpha"] = Specimen(saved(half.convert("LA"), "PNG"), None, rgb * 0 + 255)
    made["png opaque alpha"] = Specimen(saved(image.convert("RGBA"), "PNG"), None, rgb)
    few = image.quantize(16)
    shown = np.asarray(few.convert("RGB"))
    made["png palette 4 bit"] = Specimen(saved(few, "PNG", bits=4), None, shown)
    made["png palette 8 bit"] = Specimen(saved(few, "PNG", bits=8), None, shown)
    clear = np.where(np.asarray(few)[:, :, None] == 3, 255, shown).astype(np.uint8)
    made["png palette hole"] = Specimen(saved(few, "PNG", transparency=3), None, clear)
    white = np.full((SIDE, SIDE), 255, np.uint8)
    for depth in (1, 2, 4):
        row = b"\0" + b"\xff" * (SIDE * depth // 8)
        data = png(SIDE, SIDE, row * SIDE, depth=depth, color=0)
        made[f"png grey {depth} bit"] = Specimen(data, None, grey(white))
    wide = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) * 113).astype(">u2")
    scaled = np.floor(wide.astype(float) / 257 + 0.5).astype(np.uint8)
    data = png(SIDE, SIDE, lines(wide), depth=16, color=0)
    made["png grey 16 bit"] = Specimen(data, None, grey(scaled))
    deep = np.repeat((rgb.astype(">u2") << 8 | 77)[:, :, None], 1, axis=2).reshape(SIDE, SIDE, 3)
    data = png(SIDE, SIDE, lines(deep.astype(">u2")), depth=16)
    made["png rgb 16 bit"] = Specimen(data, None, rgb)
    made["png interlaced"] = Specimen(png(SIDE, SIDE, adam7(rgb), interlaced=1), None, rgb)
    black = Image.new("RGB", image.size)
    data = saved(image, "PNG", save_all=True, append_images=[black])
    made["png animated"] = Specimen(data, None, rgb)
    raw = lines(rgb)
    good = png(SIDE, SIDE, raw)
    made["png and a zip"] = Specimen(good + b"PK\3\4" + b"x" * 99, None, rgb)
    made["png broken profile"] = Specimen(
        png(SIDE, SIDE, raw, before=chunk(b"iCCP", b"x\0\0junk")), None, rgb
    )
    bomb = zlib.compress(bytes(80 << 20), 9)
    bombs = {"zTXt": b"a\0\0" + bomb, "iTXt": b"a\0\1\0\0\0" + bomb, "iCCP": b"a\0\0" + bomb}
    for name, body in bombs.items():
        data = png(SIDE, SIDE, raw, before=chunk(name.encode(), body))
        made[f"png {name} bomb"] = Specimen(data, "any")
    made["png cut end"] = Specimen(good[:-12], "truncated")
    made["png wrong check"] = Specimen(
        png(SIDE, SIDE, raw, before=chunk(b"gAMA", b"\0\0\0\1", check=5)), "any"
    )
    made["png no data"] = Specimen(png(SIDE, SIDE, b""), "truncated")
    made["png half data"] = Specimen(png(SIDE, SIDE, raw[:400]), "truncated")
    made["png no palette"] = Specimen(png(SIDE, SIDE, b"\0" * 600, color=3), "any")
    made["png 0 x 0"] = Specimen(png(0, 0, raw), "any")
    made["png bad depth"] = Specimen(png(SIDE, SIDE, raw, depth=3), "any")
    for side in (13_000, 65_535, 2**31 - 1):
        made[f"png {side} squared"] = Specimen(png(side, side, b"\0"), "too_many_pixels")
    bomb = png(6000, 6000, bytes(6001 * 6000), color=0)
    made["png bomb"] = Specimen(bomb, "too_many_pixels")


def _jpegs(made: dict[str, Specimen]) -> None:
    rgb = picture()
    image = Image.fromarray(rgb)
    made["jpeg"] = Specimen(saved(image, "JPEG", quality=95), None, rgb, 20)
    fine = saved(image, "JPEG", quality=100, subsampling=0)
    made["jpeg 4:4:4"] = Specimen(fine, None, rgb, 8)
    made["jpeg progressive"] = Specimen(
        saved(image, "JPEG", quality=100, subsampling=0, progressive=True), None, rgb, 8
    )
    plane = Image.fromarray(rgb[:, :, 0])
    made["jpeg grey"] = Specimen(saved(plane, "JPEG", quality=100), None, grey(rgb[:, :, 0]), 8)
    white = Image.new("CMYK", image.size)
    made["jpeg cmyk"] = Specimen(saved(white, "JPEG"), None, np.full_like(rgb, 255), 3)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        stored = image if turn == 1 else image.transpose(Image.Transpose(undo[turn]))
        data = saved(stored, "JPEG", quality=100, subsampling=0, exif=exif)
        made[f"jpeg turn {turn}"] = Specimen(data, None, rgb, 8)
    made["jpeg junk exif"] = Specimen(
        saved(image, "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0junk"), None, rgb, 8
    )
    frame = fine.index(b"\xff\xc0")
    twelve = fine[: frame + 4] + b"\x0c" + fine[frame + 5 :]
    made["jpeg 12 bit"] = Specimen(twelve, "any")
    wide = fine[: frame + 5] + b"\xff\xff\xff\xff" + fine[frame + 9 :]
    made["jpeg 65535 squared"] = Specimen(wide, "too_many_pixels")
    made["jpeg and a page"] = Specimen(fine + b"<script>alert(1)</script>", None, rgb, 8)
    made["jpeg start only"] = Specimen(b"\xff\xd8\xff", "truncated")
    scan = fine.index(b"\xff\xda")
    for part in range(10):
        cut = 2 + (scan + 60) * (part + 1) // 11
        made[f"jpeg cut {part}"] = Specimen(fine[:cut], "truncated")
    made["jpeg no tables"] = Specimen(fine.replace(b"\xff\xc4", b"\xff\xfe"), "any")


def _others(made: dict[str, Specimen]) -> None:
    rgb = picture()
    image = Image.fromarray(rgb)
    black = Image.new("RGB", image.size)
    made["webp lossy"] = Specimen(saved(image, "WEBP", quality=95), None, rgb, 40)
    webp = saved(image, "WEBP", lossless=True)
    made["webp lossless"] = Specimen(webp, None, rgb)
    options = {"lossless": True, "save_all": True, "append_images": [black]}
    made["webp animated"] = Specimen(saved(image, "WEBP", **options), None, rgb)
    made["webp half"] = Specimen(webp[: len(webp) // 2], "truncated")
    huge = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" * 2
    made["webp huge"] = Specimen(huge + b"\0" * 8, "too_many_pixels")
    for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        data = saved(image, "TIFF", compression=name)
        made[f"tiff {name}"] = Specimen(data, None, rgb)
        made[f"tiff {name} half"] = Specimen(data[: len(data) // 2], "truncated")
    made["tiff jpeg"] = Specimen(saved(image, "TIFF", compression="jpeg"), None, rgb, 60)
    bits = Image.fromarray(rgb[:, :, 0] > 99)
    fax = saved(bits, "TIFF", compression="group4")
    made["tiff fax"] = Specimen(fax, None, grey(np.uint8(255) * (rgb[:, :, 0] > 99)))
    pages = saved(image, "TIFF", save_all=True, append_images=[black])
    made["tiff pages"] = Specimen(pages, None, rgb)
    ink = saved(Image.new("CMYK", image.size), "TIFF")
    made["tiff cmyk"] = Specimen(ink, None, np.full_like(rgb, 255))
    wide = (np.arange(SIDE * SIDE) * 113).reshape(SIDE, SIDE)
    scaled = np.floor(wide / 257 + 0.5).astype(np.uint8)
    data = saved(Image.fromarray(wide.astype("<u2")), "TIFF")
    made["tiff 16 bit"] = Specimen(data, None, grey(scaled))
    data = saved(Image.fromarray(wide.astype(">u2")), "TIFF")
    made["tiff 16 bit big endian"] = Specimen(data, None, grey(scaled))
    single = wide.astype("<f4").tobytes()
    made["tiff float"] = Specimen(grey_tiff(SIDE, SIDE, 32, 3, single), "unsupported_mode")
    made["tiff 32 bit"] = Specimen(grey_tiff(SIDE, SIDE, 32, 2, single), "unsupported_mode")
    made["tiff 64 bit"] = Specimen(grey_tiff(SIDE, SIDE, 64, 3, single * 2), "unsupported_mode")
    made["tiff tiled"] = Specimen(tiled_tiff(32), None, grey(rgb[:, :, 0]))
    made["tiff huge tile"] = Specimen(tiled_tiff(1 << 16), "too_many_pixels")
    made["tiff huge"] = Specimen(grey_tiff(1 << 20, 1 << 20, 8, 1, b"x"), "too_many_pixels")
    made["tiff no directory"] = Specimen(b"II*\0\xff\xff\xff\x7f", "truncated")
    made["tiff many tags"] = Specimen(tiff([(256, 4, 1 << 30, 8)] * 999), "any")


def _more(made: dict[str, Specimen]) -> None:
    rgb = picture()
    image, plane = Image.fromarray(rgb), Image.fromarray(rgb[:, :, 0])
    black, bits = Image.new("RGB", image.size), Image.fromarray(rgb[:, :, 0] > 99)
    few = image.quantize(16)
    shown = np.asarray(few.convert("RGB"))
    made["gif"] = Specimen(saved(few, "GIF"), None, shown)
    made["gif still"] = Specimen(saved(few, "GIF", interlace=0), None, shown)
    frames = saved(few, "GIF", save_all=True, append_images=[black])
    made["gif animated"] = Specimen(frames, None, shown)
    made["gif 1 pixel"] = Specimen(saved(Image.new("L", (1, 1)), "GIF"), "too_small")
    gif = saved(few, "GIF")
    made["gif huge"] = Specimen(gif[:6] + b"\xff\xff\xff\xff" + gif[10:], "too_many_pixels")
    made["gif half"] = Specimen(gif[: len(gif) // 2], "any")
    made["gif and a zip"] = Specimen(gif + b"PK\3\4", None, shown)
    bmp = saved(image, "BMP")
    made["bmp"] = Specimen(bmp, None, rgb)
    flipped = bmp[:22] + struct.pack("<i", -SIDE) + bmp[26:]
    made["bmp top down"] = Specimen(flipped, None, rgb[::-1])
    made["bmp grey"] = Specimen(saved(plane, "BMP"), None, grey(rgb[:, :, 0]))
    made["bmp 1 bit"] = Specimen(saved(bits, "BMP"), None, grey(255 * (rgb[:, :, 0] > 99)))
    made["bmp huge"] = Specimen(bmp[:18] + b"\xff\xff\xff\x7f" * 2 + bmp[26:], "too_many_pixels")
    made["bmp half"] = Specimen(bmp[: len(bmp) // 2], "truncated")
    plain = {
        "empty": b"", "one zero": b"\0", "zeros": bytes(4096), "text": b"hello\n",
        "page": b"<!doctype html><img src=x>", "svg": b"<svg/>", "pdf": b"%PDF-1.4\n",
        "program": b"\x7fELF" + bytes(99), "zip": b"PK\3\4" + bytes(99),
        "gzip": b"\x1f\x8b\x08" * 9,
        "noise": np.random.default_rng(0).bytes(5000), "riff": b"RIFF\0\0\0\0WAVE" + bytes(99),
    }  # fmt: skip
    made |= {name: Specimen(data, "not_an_image") for name, data in plain.items()}
    for kind in ("PPM", "ICO", "TGA", "PCX", "ICNS", "SGI"):
        made[kind] = Specimen(saved(image.resize((32, 32)), kind), "not_an_image")


@pytest.fixture(scope="session")
def specimens() -> dict[str, Specimen]:
    """Files by kind."""
    made: dict[str, Specimen] = {}
    for fill in (_pngs, _jpegs, _others, _more):
        fill(made)
    return made
