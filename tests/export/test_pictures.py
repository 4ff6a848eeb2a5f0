"""One picture from a file: its numbers beside those of Keras, every mode of pixels, and the files that must not pass."""

import os
import struct
import warnings
import zlib

import keras
import numpy as np
import pytest
from PIL import Image

from kbn.export.errors import BrokenModelError, UsageError
from kbn.export.pictures import picture_size, read_picture

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (9, 14, 3), np.uint8)


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "gif", "webp", "jpg"])
def test_every_format_gives_the_pixels_that_were_saved(tmp_path, suffix):
    flat = np.empty((9, 14, 3), np.uint8)  # few colours, which gif has room for, in areas that jpg keeps
    flat[:, :8], flat[:, 8:] = (200, 30, 90), (10, 220, 40)
    options = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    path = saved(tmp_path / f"x.{suffix}", flat, **options)
    assert picture_size(path) == (9, 14)
    read = read_picture(path, 3, 9, 14)
    assert (read.shape, read.dtype) == ((9, 14, 3), np.uint8)
    assert np.abs(read.astype(int) - flat).max() <= (2 if suffix == "jpg" else 0)


@pytest.mark.parametrize(("channels", "mode"), [(1, "grayscale"), (3, "rgb"), (4, "rgba")])
@pytest.mark.parametrize("kept", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1"])
def test_modes_and_sizes_are_those_of_keras(tmp_path, channels, mode, kept):
    picture = Image.fromarray(RANDOM.integers(0, 256, (9, 14, 4), np.uint8))
    path = tmp_path / ("x.tiff" if kept == "CMYK" else "x.png")
    (picture.convert("RGB") if kept in ("P", "CMYK") else picture).convert(kept).save(path)
    for height, width in [(9, 14), (5, 4), (20, 31)]:
        theirs = keras.utils.load_img(
            path, color_mode=mode, target_size=(height, width), interpolation="bilinear", keep_aspect_ratio=False
        )
        expected = keras.utils.img_to_array(theirs)
        np.testing.assert_array_equal(read_picture(path, channels, height, width), expected)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_of_16_bits_of_grey_the_upper_8_are_taken(tmp_path, suffix):
    grey = np.array([[0, 255, 256], [0x7FFF, 0x8000, 0xFFFF]], np.uint16)
    path = saved(tmp_path / f"x.{suffix}", grey)
    np.testing.assert_array_equal(read_picture(path, 1, 2, 3)[..., 0], [[0, 0, 1], [127, 128, 255]])
    np.testing.assert_array_equal(read_picture(path, 3, 2, 3), np.repeat(read_picture(path, 1, 2, 3), 3, axis=2))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_without_a_scale_are_refused(tmp_path, dtype):
    path = saved(tmp_path / "depth.tiff", np.ones((4, 4), dtype))
    with pytest.raises(UsageError, match=r"depth\.tiff.*32-bit"):
        picture_size(path)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, lambda x: x), (2, np.fliplr), (3, lambda x: np.rot90(x, 2)), (6, lambda x: np.rot90(x, -1)), (8, np.rot90)],
)
def test_the_exif_orientation_is_applied(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "x.png", COLOURS, exif=exif)
    expected = turned(COLOURS)
    assert picture_size(path) == expected.shape[:2]
    np.testing.assert_array_equal(read_picture(path, 3, *expected.shape[:2]), expected)


def test_pillows_advice_about_transparent_palettes_reaches_nobody(tmp_path):
    picture = Image.fromarray(COLOURS).quantize(4)
    picture.save(tmp_path / "x.png", transparency=bytes([0, 128, 255, 255]))
    with pytest.warns(UserWarning, match="Transparency"), Image.open(tmp_path / "x.png") as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png", 3, 9, 14), expected)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_picture(tmp_path / "x.gif", 3, 4, 6), np.full((4, 6, 3), (250, 0, 0)))


def bomb(path):
    """A png of 60 000 x 60 000 pixels in a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b""))


def warned_of(path):
    """One of more pixels than Pillow takes without a warning, and fewer than it refuses."""
    Image.new("1", (10_000, 9_000)).save(path)


def truncated(path):
    saved(path, COLOURS, format="PNG")
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path):
    saved(path, COLOURS, format="PNG")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGED = {
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("dear user"),
    "truncated": truncated,
    "flipped byte": flipped,
    "bomb": bomb,
    "bomb that Pillow only warns of": warned_of,
    "another format": lambda path: Image.new("RGB", (4, 4)).save(path, format="PPM"),
    "link to nothing": lambda path: path.symlink_to("nowhere.png"),
    "pipe": lambda path: os.mkfifo(path),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_sound_picture_is_told_by_name(tmp_path, kind):
    DAMAGED[kind](tmp_path / "x.png")
    warnings.simplefilter("ignore")  # as the command does, once it has imported Keras; pytest puts it back
    with pytest.raises(BrokenModelError, match=r"x\.png'.*(out of the folder)"):
        picture_size(tmp_path / "x.png")
    if "bomb" in kind:
        with pytest.raises(BrokenModelError, match="more pixels"):
            read_picture(tmp_path / "x.png", 3, 4, 4)


def test_a_picture_just_below_the_limit_is_read(tmp_path, monkeypatch):
    # The counterpart of the bombs: the limit is Pillow's own, which its user may set.
    path = saved(tmp_path / "x.png", COLOURS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", COLOURS[..., 0].size)
    assert picture_size(path) == (9, 14)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", COLOURS[..., 0].size - 1)
    with pytest.raises(BrokenModelError, match="more pixels"):
        picture_size(path)
