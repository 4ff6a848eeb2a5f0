"""A folder of images as data: which are taken, how an input has them, and every folder or input that does not fit."""

import json
import os
import subprocess
import sys
import warnings
from functools import partial

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from PIL import Image

import kbn
from kbn.export import ImageFolder, bench, check, export
from kbn.export.cli import main
from kbn.export.drawing import Declared, batches
from kbn.export.errors import BrokenModelError, UsageError
from kbn.export.samples import user_samples
from trained_models import randomized


def picture(path, grey=0, size=(6, 8)):
    """One of `size` (height, width), all of one grey, by which a test knows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (grey,) * 3).save(path)
    return path


def noise(path, seed, size=(8, 8)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def declared(*shape, dtype="float32"):
    return Declared("image", shape, dtype)


def fed(path, single, **options):
    """All that an input is given of a folder, as one array."""
    return np.concatenate([sample.arrays[0] for sample in batches([single], ImageFolder(path, **options))])


def greys(path, **options):
    return fed(path, declared(None, 6, 8, 3), **options)[:, 0, 0, 0].tolist()


def test_images_come_in_the_order_of_their_paths_and_nothing_else_comes(tmp_path):
    names = ["b/2.png", "a/9.JPG", "a/10.png", "z.webp", "b/sub/1.tiff", "a.bmp"]
    for grey, name in enumerate(names):
        picture(tmp_path / name, grey)
    for name in (".hidden.png", ".cache/x.png", "a/._10.png"):
        picture(tmp_path / name, 99)
    (tmp_path / "labels.csv").write_text("1,2")
    expected = ["a/10.png", "a/9.JPG", "a.bmp", "b/2.png", "b/sub/1.tiff", "z.webp"]
    assert [str(path.relative_to(tmp_path)) for path in ImageFolder(tmp_path).paths] == expected
    assert greys(tmp_path) == [names.index(name) for name in expected]


def test_links_are_followed_once(tmp_path):
    picture(tmp_path / "elsewhere" / "x.png", 5)
    picture(tmp_path / "data" / "a.png", 1)
    (tmp_path / "data" / "class").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "b.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    assert greys(tmp_path / "data") == [1, 5, 5]


def test_of_many_images_as_many_as_the_limit_come_at_even_distances(tmp_path):
    for grey in range(20):
        picture(tmp_path / f"class_{grey // 5}" / f"{grey:02}.png", grey)
    folder = ImageFolder(tmp_path, limit=8)
    assert (folder.found, len(folder.paths)) == (20, 8)
    assert greys(tmp_path, limit=8) == [0, 2, 5, 7, 10, 12, 15, 17]
    assert greys(tmp_path, limit=20) == greys(tmp_path, limit=None) == greys(tmp_path) == list(range(20))
    assert greys(tmp_path, limit=1) == [0]
    with pytest.raises(UsageError, match="found 0"):
        ImageFolder(tmp_path, limit=0)


@pytest.mark.parametrize("shape", [(None, 8, 8, 3), (None, 3, 8, 8), (None, None, None, 3), ("N", 3, "H", None)])
def test_the_input_gets_raw_pixels_in_its_own_layout(tmp_path, shape):
    expected = np.stack([noise(tmp_path / f"{index}.png", index) for index in range(3)]).astype(np.float32)
    array = fed(tmp_path, declared(*shape))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected.transpose(0, 3, 1, 2) if shape[1] == 3 else expected)


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_alpha_where_the_input_has_so_many_channels(tmp_path, channels):
    pixels = noise(tmp_path / "x.png", 0)
    array = fed(tmp_path, declared(None, channels, 8, 8))
    assert array.shape == (1, channels, 8, 8)
    if channels == 4:
        np.testing.assert_array_equal(array[0, :3].transpose(1, 2, 0), pixels)
        assert (array[0, 3] == 255).all()
    else:
        grey = pixels @ [0.299, 0.587, 0.114]  # ITU-R BT.601
        assert np.abs(array[0, 0] - grey).max() < 1


@pytest.mark.parametrize(("dtype", "taken"), [("uint8", "uint8"), ("int32", "int32"), ("float16", "float32")])
def test_the_dtype_of_the_input(tmp_path, dtype, taken):
    pixels = noise(tmp_path / "x.png", 0)
    array = fed(tmp_path, declared(None, 8, 8, 3, dtype=dtype))
    assert array.dtype == taken
    np.testing.assert_array_equal(array[0], pixels)


@pytest.mark.parametrize("dtype", ["int8", "bool"])
def test_a_dtype_without_255_is_refused(tmp_path, dtype):
    picture(tmp_path / "x.png")
    with pytest.raises(UsageError, match=f"takes {dtype}"):
        fed(tmp_path, declared(None, 6, 8, 3, dtype=dtype))


def test_a_fixed_size_is_resized_to_and_a_free_one_must_be_common(tmp_path):
    picture(tmp_path / "a.png", size=(6, 8))
    picture(tmp_path / "b.png", size=(9, 8))
    assert fed(tmp_path, declared(None, 5, 4, 3)).shape == (2, 5, 4, 3)
    assert fed(tmp_path, declared(None, 5, None, 3)).shape == (2, 5, 8, 3)  # the free width is 8 in both
    with pytest.raises(UsageError, match=r"a\.png' is 8 x 6 pixels and '.*b\.png' is 8 x 9, .*--input-shape"):
        fed(tmp_path, declared(None, 3, None, None))


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ((None, 10), r"takes \(any, 10\), which has no axis"),
        ((None, 8, 8, 5), "no axis of 1, 3 or 4 channels"),
        ((None, 8, None, None), "no axis of 1, 3 or 4 channels"),
        ((None, 8, 8, 8, 3), "no axis of 1, 3 or 4 channels"),
        ((None, 3, 4, 3), "first or last"),
    ],
)
def test_inputs_that_take_no_images_are_told(tmp_path, shape, word):
    picture(tmp_path / "x.png")
    with pytest.raises(UsageError, match=f"{word}.*npy"):
        fed(tmp_path, declared(*shape))


def test_two_inputs_and_a_fixed_batch_that_does_not_divide_are_told(tmp_path):
    for index in range(3):
        picture(tmp_path / f"{index}.png")
    single = declared(None, 6, 8, 3)
    with pytest.raises(UsageError, match="the model has 2: 'image', 'image'"):
        next(batches([single, single], ImageFolder(tmp_path)))
    with pytest.raises(UsageError, match="exactly 2; the data holds 3"):
        next(batches([declared(2, 6, 8, 3)], ImageFolder(tmp_path)))


def test_a_folder_without_images_is_told(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".x.png").write_text("")
    with pytest.raises(UsageError, match=r"holds no image: .*\.png"):
        ImageFolder(tmp_path)
    with pytest.raises(UsageError, match="no folder of images"):
        ImageFolder(tmp_path / "none")


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    picture(tmp_path / "x.png")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"cannot be listed: .*denied"):
        ImageFolder(tmp_path)


def test_a_damaged_image_is_told_before_any_is_used(tmp_path):
    for index in range(40):  # more than a batch
        picture(tmp_path / f"{index:02}.png")
    content = (tmp_path / "39.png").read_bytes()
    (tmp_path / "39.png").write_bytes(content[:40])
    with pytest.raises(BrokenModelError, match=r"39\.png"):
        ImageFolder(tmp_path)


def test_images_are_read_as_batches_are_taken(tmp_path):
    for grey in range(5):
        picture(tmp_path / f"{grey}.png", grey)
    taken = batches([declared(None, 6, 8, 3)], ImageFolder(tmp_path), batch_size=2)
    assert next(taken).arrays[0][:, 0, 0, 0].tolist() == [0, 1]
    (tmp_path / "3.png").unlink()
    with pytest.raises(BrokenModelError, match=r"3\.png"):
        next(taken)


def test_pillow_is_loaded_for_images_alone(tmp_path):
    picture(tmp_path / "x.png")
    program = (
        "import sys, kbn.export.onnx_parity, kbn.export.latency\n"
        "from kbn.export.image_folder import ImageFolder\n"
        "assert 'PIL' not in sys.modules\n"
        "ImageFolder(sys.argv[1])\n"
        "assert 'PIL' in sys.modules\n"
    )
    line = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def build(shape=(8, 8, 3), data_format="channels_last"):
    inputs = keras.Input(shape, name="image")
    tensor = layers.Rescaling(1 / 255)(inputs)
    tensor = layers.Conv2D(4, 3, data_format=data_format, name="conv")(tensor)
    axis = 1 if data_format == "channels_first" else -1
    tensor = layers.ReLU()(kbn.BatchNormalization(axis=axis, name="bn")(tensor))
    tensor = layers.GlobalAveragePooling2D(data_format=data_format)(tensor)
    return randomized(keras.Model(inputs, layers.Dense(5, name="classes")(tensor)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, its file in its own layout and in the other, and images that are not of its size."""
    path = tmp_path_factory.mktemp("images")
    model = build()
    model.save(path / "model.keras")
    export(model, path / "nhwc.onnx")
    export(model, path / "nchw.onnx", input_layout="nchw")
    for index in range(5):
        noise(path / "photos" / f"class_{index % 2}" / f"{index}.png", index, (12 + index, 9))
    return path


def test_a_channels_first_model_takes_them(tmp_path):
    pixels = noise(tmp_path / "x.png", 0)
    (sample,) = user_samples(build((3, 8, 8), "channels_first"), ImageFolder(tmp_path))
    np.testing.assert_array_equal(sample.arrays[0][0], pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("first", ["model.keras", "nhwc.onnx", "nchw.onnx"])
@pytest.mark.parametrize("second", ["nhwc.onnx", "nchw.onnx"])
def test_models_and_files_of_either_layout_get_the_same_images(exported, first, second):
    folder = ImageFolder(exported / "photos")
    (sample,) = user_samples(keras.models.load_model(exported / "model.keras"), folder)
    report = check(exported / first, exported / second, folder)
    given = check(exported / first, exported / second, sample.arrays[0])
    assert report.passed
    assert report.samples["data"] == 5
    # The same numbers, not only a verdict that transposed images could have as well.
    for images, arrays in zip(report.outputs, given.outputs, strict=True):
        assert images.cases["data"] == arrays.cases["data"]


def test_the_size_that_the_other_file_fixes_is_resized_to(exported, tmp_path):
    free = build((None, None, 3))
    export(free, tmp_path / "free.onnx")
    export(free, tmp_path / "fixed.onnx", input_shapes={"image": (None, 8, 8, 3)})
    report = check(tmp_path / "free.onnx", tmp_path / "fixed.onnx", ImageFolder(exported / "photos"))
    assert (report.passed, report.samples["data"]) == (True, 5)


@pytest.mark.parametrize("first", ["nhwc.onnx", "nchw.onnx"])
def test_a_bench_feeds_them_repeated_to_the_batch(exported, first, monkeypatch):
    from kbn.export import latency

    seen = []
    made = latency.inputs_of
    monkeypatch.setattr(latency, "inputs_of", lambda *given: seen.append(made(*given)) or seen[-1])
    files = [exported / first, exported / "nhwc.onnx"]
    bench(files, rounds=1, batch_sizes=(3, 7), data=ImageFolder(exported / "photos"))
    (three,), (seven,) = seen
    assert three.shape == ((3, 3, 8, 8) if first == "nchw.onnx" else (3, 8, 8, 3))
    np.testing.assert_array_equal(three, seven[:3])
    np.testing.assert_array_equal(seven[:2], seven[5:])


@pytest.fixture
def run(monkeypatch, capsys):
    """The command inside this process: its exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kbn", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped, warnings.catch_warnings():
            main()
        return (stopped.value.code or 0, *capsys.readouterr())

    return run


def test_the_commands_take_a_folder_and_say_what_they_leave_out(exported, tmp_path, run, monkeypatch):
    monkeypatch.setattr("kbn.export.image_folder.ImageFolder", partial(ImageFolder, limit=4))
    files = [exported / "model.keras", tmp_path / "m.onnx"]
    code, shown, told = run("export", *files, "--data", exported / "photos", "--int8", "--json")
    assert code == 0, told
    assert json.loads(shown)["check"]["samples"]["data"] == 4
    assert onnx.load(tmp_path / "m.int8.onnx").graph.input[0].name == "image"
    assert "look through the images ..." in told
    assert "Of the 5 images in" in told
    assert "takes 4, at even distances" in told
    code, shown, told = run("check", *files, "--data", exported / "photos")
    assert (code, "4 data" in shown, "Of the 5 images" in told) == (0, True, True)


def test_nothing_is_noted_where_all_images_are_taken(exported, run):
    files = [exported / "nhwc.onnx", exported / "nchw.onnx"]
    code, shown, told = run("check", *files, "--data", exported / "photos", "--quiet")
    assert (code, "5 data" in shown, told) == (0, True, "")


@pytest.mark.parametrize(
    ("make", "expected", "word"),
    [
        (lambda folder: (folder / "x.png").write_bytes(b"\x89PNG"), 4, "x.png"),
        (lambda folder: (folder / "x.txt").touch(), 2, "holds no image"),
    ],
)
def test_a_bad_folder_gets_one_paragraph(exported, tmp_path, run, make, expected, word):
    make(tmp_path)
    code, shown, told = run("check", exported / "model.keras", exported / "nhwc.onnx", "--data", tmp_path, "--quiet")
    assert (code, shown) == (expected, "")
    assert told.startswith("Error: ")
    assert (told.strip().count("\n"), word in told) == (0, True)
