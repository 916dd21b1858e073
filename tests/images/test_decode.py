"""Image files decode to the pixels a viewer shows, or to one reason why not."""

import os
import pickle  # noqa: TID251  (an exception must survive a process pool, which pickles)
import signal
import socket
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image, ImageOps

from edge_stl.errors import DataError, UsageError
from edge_stl.images import REASONS, UnreadableImage, decode, read_size


LIMITS = {"max_pixels": 1_000_000, "max_bytes": 10_000_000}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


def picture(height: int = 20, width: int = 30) -> np.ndarray:
    """Smooth colours, different at every corner: (height, width, 3) uint8."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * y // max(height - 1, 1), 255 * x // max(width - 1, 1)
    return np.stack([red, green, (red + green) // 2], axis=-1).astype(np.uint8)


def reason(path: Path, **changes: int) -> str:
    with pytest.raises(UnreadableImage, match=r"expected|allowed|read|there") as caught:
        decode(path, **{"channels": 3, **LIMITS, **changes})
    assert caught.value.reason in REASONS
    return caught.value.reason


def png(width: int, height: int, *, depth: int, color: int, raw: bytes) -> bytes:
    """A PNG by hand, for headers that Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_same_pixels(tmp_path: Path, kind: str):
    Image.fromarray(picture()).save(tmp_path / "a", kind)

    assert np.array_equal(picture(), decode(tmp_path / "a", channels=3, **LIMITS))
    assert read_size(tmp_path / "a") == (30, 20)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_give_nearly_the_same_pixels(tmp_path: Path, kind: str):
    Image.fromarray(picture()).save(tmp_path / "a", kind)

    pixels = decode(tmp_path / "a", channels=3, **LIMITS)

    assert pixels.shape == (20, 30, 3)
    assert np.abs(pixels.astype(int) - picture()).mean() < 12


def test_the_result_is_owned_and_writable(tmp_path: Path):
    Image.fromarray(picture()).save(tmp_path / "a.png")

    pixels = decode(tmp_path / "a.png", channels=3, **LIMITS)

    assert pixels.flags.writeable
    assert pixels.flags.owndata
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_every_exif_orientation_gives_the_same_picture_back(tmp_path: Path, kind: str, turn: int):
    """The stored picture is turned so that the orientation must undo it."""
    upright = Image.fromarray(picture())
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation -> Image.Transpose before it
    stored = upright if turn == 1 else upright.transpose(Image.Transpose(undo[turn]))
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"quality": 100, "lossless": True} if kind in {"WEBP", "JPEG"} else {}
    stored.save(tmp_path / "a", kind, exif=exif, **options)

    pixels = decode(tmp_path / "a", channels=3, **LIMITS)

    assert read_size(tmp_path / "a") == (30, 20)
    assert pixels.shape == (20, 30, 3)
    assert np.abs(pixels.astype(int) - picture()).max() <= (0 if kind != "JPEG" else 12)
    with Image.open(tmp_path / "a") as image:
        oracle = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(oracle, pixels)


def test_a_compressed_tiff_is_turned_once(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(picture()).transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "a.tif", exif=exif, compression="tiff_lzw")

    assert read_size(tmp_path / "a.tif") == (30, 20)
    assert np.array_equal(picture(), decode(tmp_path / "a.tif", channels=3, **LIMITS))


@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"])
def test_broken_exif_does_not_cost_the_picture(tmp_path: Path, exif: bytes):
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=exif)

    assert decode(tmp_path / "a.jpg", channels=3, **LIMITS).shape == (20, 30, 3)
    assert read_size(tmp_path / "a.jpg") == (30, 20)


@pytest.mark.parametrize(("kind", "order"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_16_bit_grey_is_divided_by_257_and_rounded(tmp_path: Path, kind: str, order: str):
    values = np.array([[0, 128, 129, 257], [385, 386, 65406, 65535]], dtype=order)
    Image.fromarray(values).save(tmp_path / "a", kind)

    grey = decode(tmp_path / "a", channels=1, **LIMITS)
    colour = decode(tmp_path / "a", channels=3, **LIMITS)

    expected = np.round(values.astype(np.float64) / 257).astype(np.uint8)
    assert np.array_equal(expected, grey[:, :, 0])
    assert np.array_equal(np.repeat(grey, 3, axis=2), colour)
    assert expected.tolist() == [[0, 0, 1, 1], [1, 2, 254, 255]]


@pytest.mark.parametrize(("color", "planes"), [(2, 3), (6, 4)])
def test_16_bit_colour_keeps_its_high_byte(tmp_path: Path, color: int, planes: int):
    pixel = struct.pack(">4H", 0x1234, 0x8000, 0xFFFF, 0xFFFF)[: 2 * planes]
    (tmp_path / "a.png").write_bytes(png(1, 1, depth=16, color=color, raw=b"\0" + pixel))

    pixels = decode(tmp_path / "a.png", channels=3, **LIMITS)

    assert pixels[0, 0].tolist() == [0x12, 0x80, 0xFF]


def test_one_bit_is_black_and_white(tmp_path: Path):
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "a.png")

    assert decode(tmp_path / "a.png", channels=1, **LIMITS).ravel().tolist() == [0, 255]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bit_grey_reaches_white(tmp_path: Path, depth: int):
    (tmp_path / "a.png").write_bytes(png(1, 1, depth=depth, color=0, raw=b"\0\xff"))

    assert decode(tmp_path / "a.png", channels=1, **LIMITS).item() == 255


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_palette_entry_is_white(tmp_path: Path, kind: str, channels: int):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 60, 60, 60] + [0] * 750)
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a", kind, transparency=0)

    pixels = decode(tmp_path / "a", channels=channels, **LIMITS)

    assert pixels[0, :, 0].tolist() == [255, 60]


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("LA", (0, 255), [0, 0, 0]),
        ("LA", (100, 0), [255, 255, 255]),
        ("RGBA", (200, 100, 0, 255), [200, 100, 0]),
        ("RGBA", (200, 100, 0, 0), [255, 255, 255]),
        ("RGBA", (0, 0, 0, 128), [127, 127, 127]),
    ],
)
def test_alpha_is_composed_over_white(tmp_path: Path, mode: str, color: tuple, expected: list):
    for kind in ("PNG", "TIFF"):
        Image.new(mode, (3, 2), color).save(tmp_path / kind, kind)

        pixels = decode(tmp_path / kind, channels=3, **LIMITS)

        assert pixels[1, 2].tolist() == expected


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 8, 9))])
def test_a_transparent_colour_is_white(tmp_path: Path, mode: str, key: object):
    Image.new(mode, (1, 1), key).save(tmp_path / "a.png", transparency=key)

    assert decode(tmp_path / "a.png", channels=3, **LIMITS).ravel().tolist() == [255] * 3


def test_a_palette_with_alpha_is_composed_over_white(tmp_path: Path):
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.convert("P").convert("PA").save(tmp_path / "a.tif")

    assert decode(tmp_path / "a.tif", channels=3, **LIMITS).shape == (1, 2, 3)


def test_a_cmyk_jpeg_with_adobe_inverted_ink_is_not_a_negative(tmp_path: Path):
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "white.jpg")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    assert b"Adobe" in (tmp_path / "red.jpg").read_bytes()

    white = decode(tmp_path / "white.jpg", channels=3, **LIMITS)
    red = decode(tmp_path / "red.jpg", channels=3, **LIMITS)

    assert white.min() >= 253
    assert np.abs(red[4, 4].astype(int) - [255, 0, 0]).max() <= 3


def test_lab_becomes_rgb(tmp_path: Path):
    Image.new("LAB", (4, 4), (255, 128, 128)).save(tmp_path / "a.tif")

    assert decode(tmp_path / "a.tif", channels=3, **LIMITS).min() >= 250


def test_ycbcr_becomes_rgb(tmp_path: Path):
    Image.fromarray(picture()).convert("YCbCr").save(tmp_path / "a.tif")

    pixels = decode(tmp_path / "a.tif", channels=3, **LIMITS)

    assert np.abs(pixels.astype(int) - picture()).max() <= 3


def test_grey_from_colour_uses_the_weights_of_pillow(tmp_path: Path):
    Image.fromarray(picture()).save(tmp_path / "a.png")

    grey = decode(tmp_path / "a.png", channels=1, **LIMITS)

    assert np.array_equal(np.asarray(Image.fromarray(picture()).convert("L")), grey[:, :, 0])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, kind: str):
    frames = [Image.new("RGB", (8, 6), color) for color in ("black", "white", "white")]
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:])

    pixels = decode(tmp_path / "a", channels=3, **LIMITS)

    assert pixels.shape == (6, 8, 3)
    assert pixels.max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused_not_padded(tmp_path: Path, kind: str, share: float):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    noise.save(tmp_path / "a", kind)
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[: int(share * len(data))])

    assert reason(tmp_path / "a") == "truncated"


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_a_truncated_compressed_tiff_is_refused(tmp_path: Path, share: float):
    """Its directory comes last, so most cuts leave pixels without a description."""
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.tif", compression="packbits")
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: int(share * len(data))])

    assert reason(tmp_path / "a.tif") == "truncated"


@pytest.mark.parametrize("cut", [1, 4, 12, 16, 20])
def test_a_png_without_its_end_marker_is_refused(tmp_path: Path, cut: int):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-cut])

    assert reason(tmp_path / "a.png") == "truncated"


@pytest.mark.parametrize("text", [b"", b"hello\n", b"\0" * 4096, b"%PDF-1.4", b"<svg/>"])
def test_what_is_no_image_is_called_so_whatever_its_name(tmp_path: Path, text: bytes):
    (tmp_path / "a.png").write_bytes(text)

    assert reason(tmp_path / "a.png") == "not_an_image"
    with pytest.raises(UnreadableImage, match=r"a\.png: is not an image; expected PNG"):
        read_size(tmp_path / "a.png")


def test_formats_that_no_camera_writes_are_not_opened(tmp_path: Path):
    Image.fromarray(picture()).save(tmp_path / "a.png", "PPM")

    assert reason(tmp_path / "a.png") == "not_an_image"


def test_float_and_32_bit_pixels_are_refused(tmp_path: Path):
    for dtype in (np.float32, np.int32):
        Image.fromarray(np.ones((4, 4), dtype=dtype)).save(tmp_path / "a.tif")

        assert reason(tmp_path / "a.tif") == "unsupported_mode"


@pytest.mark.parametrize("side", [1200, 12_000, 60_000])
def test_a_huge_header_is_refused_without_allocating(tmp_path: Path, side: int):
    """Neither our cap nor Pillow's two limits (warning, error) let a pixel be decoded."""
    (tmp_path / "a.png").write_bytes(png(side, side, depth=8, color=2, raw=b""))
    webp = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + 2 * struct.pack("<I", side - 1)[:3]
    (tmp_path / "a.webp").write_bytes(webp)
    tracemalloc.start()

    assert reason(tmp_path / "a.png") == "too_many_pixels"
    assert reason(tmp_path / "a.webp") == "too_many_pixels"
    with pytest.raises(UnreadableImage, match="more pixels than allowed"):
        read_size(tmp_path / "a.png", max_pixels=1_000_000)

    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_large_image_gives_no_warning_when_it_is_allowed(tmp_path: Path):
    """Warnings are errors in this suite: Pillow's bomb warning starts at 89 million pixels."""
    (tmp_path / "a.png").write_bytes(png(10_000, 10_000, depth=8, color=0, raw=b""))

    assert read_size(tmp_path / "a.png") == (10_000, 10_000)


def test_the_caps_are_inclusive(tmp_path: Path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    size = (tmp_path / "a.png").stat().st_size

    decode(tmp_path / "a.png", channels=3, max_pixels=600, max_bytes=size)

    assert reason(tmp_path / "a.png", max_pixels=599) == "too_many_pixels"
    assert reason(tmp_path / "a.png", max_bytes=size - 1) == "too_many_bytes"


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))

        for name in ("fifo.png", "folder.png", "loop.png", "socket.png"):
            assert reason(tmp_path / name) == "not_a_file"
    assert reason(Path("/dev/zero")) == "not_a_file"
    assert reason(tmp_path / "nul\0.png") == "not_a_file"


def test_a_fifo_that_takes_the_place_of_a_file_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Swapped in between the look at it and the opening."""
    (tmp_path / "file.png").touch()
    os.mkfifo(tmp_path / "fifo.png")
    regular = os.stat(tmp_path / "file.png")  # noqa: PTH116

    def blocked(*_: object) -> None:
        raise TimeoutError("it blocks")

    monkeypatch.setattr(os, "stat", lambda _: regular)
    before = signal.signal(signal.SIGALRM, blocked)
    signal.alarm(20)
    try:
        assert reason(tmp_path / "fifo.png") == "not_a_file"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_missing_file_has_vanished(tmp_path: Path):
    (tmp_path / "dangling.png").symlink_to("nowhere")

    assert reason(tmp_path / "missing.png") == "vanished"
    assert reason(tmp_path / "dangling.png") == "vanished"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_called_so(tmp_path: Path):
    (tmp_path / "a.png").touch(mode=0)

    assert reason(tmp_path / "a.png") == "permission_denied"


def test_a_file_that_the_system_forbids_is_called_so(monkeypatch: pytest.MonkeyPatch):
    def forbidden(path: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", forbidden)

    assert reason(Path("a.png")) == "permission_denied"


def test_the_sentence_stays_on_one_line(tmp_path: Path):
    (tmp_path / "a\nb.png").write_bytes(b"")

    with pytest.raises(DataError, match=r"a\\nb.png: is not an image") as caught:
        decode(tmp_path / "a\nb.png", channels=3, **LIMITS)

    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 10


def test_the_exception_survives_a_process_pool():
    error = pickle.loads(pickle.dumps(UnreadableImage("truncated", "a.png")))  # noqa: S301

    assert (error.reason, error.where) == ("truncated", "a.png")
    assert str(error) == str(UnreadableImage("truncated", "a.png"))


def test_two_channels_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="channels: is 2; expected 1"):
        decode(tmp_path / "a.png", channels=2, **LIMITS)


def test_without_pillow_the_room_imports_and_says_what_is_missing(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"x")
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from edge_stl.images import read_size, fit_square\n"
        "import numpy as np\n"
        "fit_square(np.zeros((8, 8, 3), np.uint8), 4, 'crop')\n"
        "try: read_size(sys.argv[1])\n"
        "except Exception as e: print(type(e).__name__, e)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )

    expected = "UsageError reading image files needs Pillow: pip install 'edge-stl'\n"
    assert done.stdout == expected


@pytest.fixture(scope="module")
def originals() -> list[bytes]:
    from io import BytesIO

    made = []
    for kind in FORMATS:
        buffer = BytesIO()
        Image.fromarray(picture(12, 12)).save(buffer, kind)
        made.append(buffer.getvalue())
    return made


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_bytes_give_pixels_or_a_reason_and_nothing_else(
    tmp_path: Path, originals: list[bytes], data: st.DataObject
):
    damaged = bytearray(data.draw(st.sampled_from(originals)))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(damaged)

    try:
        pixels = decode(tmp_path / "a", channels=3, max_pixels=10_000, max_bytes=100_000)
    except UnreadableImage as error:
        assert error.reason in REASONS  # noqa: PT017  (pixels are as good an answer)
    else:
        assert pixels.ndim == 3
        assert pixels.size <= 30_000


@pytest.mark.parametrize("height", [255, 256, 257, 600])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_any_height_is_copied_whole(tmp_path: Path, height: int, channels: int):
    pixels = np.random.default_rng(height).integers(0, 256, (height, 7, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "tall.png")

    found = decode(tmp_path / "tall.png", channels=channels, max_pixels=10**6, max_bytes=10**6)

    expected = pixels if channels == 3 else np.asarray(image.convert("L"))[:, :, None]
    assert np.array_equal(found, expected)
    assert found.flags.owndata
    assert found.flags.writeable
