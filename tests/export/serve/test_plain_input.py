"""Images and .npy files as the inputs take them, and what is refused."""

import gc
import io
import json
import re
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kbn.export.serve import plain_input
from kbn.export.serve.plain_input import image_axes, parse_range, read_input
from kbn.export.serve.ports import Port
from kbn.export.serve.refusal import RefusedError
from serving import request, serving, write, write_rows

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
FULL = (0.0, 255.0)
RGB = Port("image", "FP32", (-1, 6, 8, 3))


def encoded(array=PIXELS, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "FP64", "UINT8", "INT64"])
@pytest.mark.parametrize("first", [False, True])
def test_an_image_of_the_right_size_is_its_pixels(datatype, first):
    shape, wanted = ((1, 3, 6, 8), PIXELS.transpose(2, 0, 1)) if first else ((-1, 6, 8, 3), PIXELS)
    array = read_input(encoded(), Port("image", datatype, shape), FULL)
    assert array.dtype == Port("image", datatype, shape).dtype
    np.testing.assert_array_equal(array, wanted[None])


def test_a_free_size_is_the_images_own_and_a_fixed_one_is_resized_to():
    assert read_input(encoded(), Port("i", "FP32", (-1, -1, -1, 3)), FULL).shape == (1, 6, 8, 3)
    assert read_input(encoded(), Port("i", "FP32", (-1, 3, 4, -1)), FULL).shape == (1, 3, 4, 8)
    resized = Image.fromarray(PIXELS).resize((3, 2), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read_input(encoded(), Port("i", "FP32", (1, 2, 3, 3)), FULL)[0], np.asarray(resized))


def test_channels_range_and_orientation():
    grey = read_input(encoded(), Port("i", "FP32", (-1, 6, 8, 1)), FULL)
    np.testing.assert_array_equal(grey[0, :, :, 0], np.asarray(Image.fromarray(PIXELS).convert("L")))
    scaled = read_input(encoded(), RGB, (-1.0, 1.0))
    np.testing.assert_allclose(scaled[0], PIXELS / 127.5 - 1, atol=1e-6)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = read_input(encoded(PIXELS[:, :6], exif=exif), Port("i", "FP32", (-1, 6, 6, 3)), FULL)
    np.testing.assert_array_equal(turned[0], np.rot90(PIXELS[:, :6], -1))


@pytest.mark.parametrize("text", ["", "1", "1,0", "0,inf", "a,b", "0,1,2", "nan,1"])
def test_a_range_is_two_numbers(text):
    with pytest.raises(RefusedError, match="LOW,HIGH"):
        parse_range(text)
    assert parse_range("-1,1") == (-1, 1)
    assert parse_range(None) == FULL


def test_which_inputs_take_images():
    assert image_axes(RGB) == (1, 2, 3)
    assert image_axes(Port("i", "UINT8", (1, 1, 5, 5))) == (2, 3, 1)
    for shape in [(-1, 3, 8, 3), (-1, 8, 8, 5), (-1, 8, 8), (4, 8, 8, 3)]:
        assert image_axes(Port("i", "FP32", shape)) is None


def test_of_16_bits_of_grey_the_upper_8_are_taken_as_the_check_takes_them():
    grey = read_input(encoded(PIXELS[..., 0].astype(np.uint16) * 256 + 200), Port("i", "FP32", (-1, 6, 8, 1)), FULL)
    np.testing.assert_array_equal(grey[0, :, :, 0], PIXELS[..., 0])


def test_without_memory_for_an_image_the_client_may_come_again(monkeypatch):
    def exhausted(*_arguments):
        raise MemoryError

    content = encoded()
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", exhausted)
    with pytest.raises(RefusedError) as refused:
        read_input(content, RGB, FULL)
    assert refused.value.status == 503


def test_no_image_is_decoded_for_an_input_that_takes_none(monkeypatch):
    content = encoded()
    monkeypatch.setattr(Image, "open", lambda *_arguments, **_options: pytest.fail("an image was opened"))
    with pytest.raises(RefusedError, match="takes no image"):
        read_input(content, X, FULL)


def test_numbers_without_a_scale_are_refused(monkeypatch):
    monkeypatch.setattr(plain_input, "FORMATS", ("TIFF",))  # those that are taken have none such
    with pytest.raises(RefusedError, match="32-bit numbers"):
        read_input(encoded(PIXELS[..., 0].astype(np.float32), "TIFF"), Port("i", "FP32", (-1, 6, 8, 1)), FULL)


def test_arrays_of_one_example_or_of_many():
    port = Port("x", "FP32", (-1, 4))
    x = np.arange(8.0).reshape(2, 4)
    np.testing.assert_array_equal(read_input(npy(x), port, FULL), x.astype(np.float32))
    np.testing.assert_array_equal(read_input(npy(x[1]), port, FULL), x[1:].astype(np.float32))
    np.testing.assert_array_equal(read_input(npy(np.asfortranarray(x)), port, FULL), x.astype(np.float32))
    assert read_input(npy(np.array([1, 2], np.int64)), Port("x", "INT8", (-1,)), FULL).tolist() == [1, 2]


def test_headers_are_read_in_several_threads():
    """Python's parser takes itself for damaged where another thread parses in between, as garbage collection may let it."""
    content, before = npy(np.zeros((2, 4), np.float32)), gc.get_threshold()
    gc.callbacks.append(lambda *_: sum(range(2000)))
    interval = sys.getswitchinterval()
    try:
        gc.set_threshold(20)
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda _: read_input(content, X, FULL), range(6000)))
    finally:
        gc.set_threshold(*before)
        sys.setswitchinterval(interval)
        gc.callbacks.pop()
    assert len(read) == 6000


def bomb():
    """A PNG of 60 000 x 60 000 pixels in a few bytes of header."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def claiming(shape, size=16):
    """A .npy file whose header claims another shape than its bytes have."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode() + bytes(size)


X = Port("x", "FP32", (-1, 4))


@pytest.mark.parametrize(
    ("content", "port", "status"),
    [
        (b"", RGB, 400),
        (b"GIF89a", RGB, 400),
        (b"<svg/>", RGB, 400),
        (encoded()[:90], RGB, 400),
        (bomb(), RGB, 413),
        (encoded(PIXELS[..., 0].astype(np.int32), "TIFF"), Port("i", "FP32", (-1, 6, 8, 1)), 400),
        (encoded(), X, 400),
        (encoded(), Port("i", "INT8", (-1, 6, 8, 3)), 400),
        (npy(PIXELS), Port("i", "FP32", (-1, 9, 8, 3)), 400),
        (npy(np.zeros((2, 5))), X, 400),
        (npy(np.zeros((0, 4))), X, 400),
        (npy(np.array([["a"] * 4])), X, 400),
        (npy(np.zeros((1, 4), "M8[s]")), X, 400),
        (npy(np.full((1, 4), 1e300)), X, 400),
        (npy(np.full((1, 4), 0.5)), Port("x", "INT64", (-1, 4)), 400),
        (npy(np.full((1, 4), 300)), Port("x", "UINT8", (-1, 4)), 400),
        (npy(np.full((1, 4), 1)), Port("x", "BOOL", (-1, 4)), 400),
        (npy(np.zeros((1, 4))), Port("x", "BYTES", (-1, 4)), 400),
        (npy(np.zeros((1, 4)))[:100], X, 400),
        (npy(np.zeros((1, 4)))[:-1], X, 400),
        (claiming("(1000000000, 4)"), X, 400),
        (claiming("(-1, 4)"), X, 400),
        (claiming("(-2, -2)"), X, 400),
        (claiming("(True, 4)"), X, 400),
        (claiming(f"({'1, ' * 99}4)"), X, 400),
        (claiming(f"(0, {2**70})", 0), X, 400),
        (claiming("(1, 4.0)"), X, 400),
        (claiming("__import__('os').getpid()"), X, 400),
        (b"\x93NUMPY\x09\0\0\0", X, 400),
        (b"\x93NUMPY\x02\0" + b"\xff" * 8, X, 400),
    ],
)
def test_what_is_neither_is_refused(content, port, status):
    with pytest.raises(RefusedError) as refused:
        read_input(content, port, FULL)
    assert refused.value.status == status


def test_no_pickle_is_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(RefusedError):
        read_input((tmp_path / "a.npy").read_bytes(), X, FULL)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    body = "(float[N, H, W, 3] image) => (float[N, 3] scores) { m = ReduceMean<keepdims=0>(image, axes)  scores = Identity(m) }"
    write(folder / "mean.onnx", body, {"kbn.labels": '["red", "green", "blue"]'}, axes=np.array([1, 2]))
    write(folder / "pair.onnx", "(float[N] a, float[N] b) => (float[N] c) { c = Sub(a, b) }")
    write_rows(folder / "rows.onnx")
    with serving(folder) as address:
        yield address


def form(**files):
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\n%s\r\n' % (name.encode(), content)
        for name, content in files.items()
    ]
    return b"".join(parts) + b"--edge--\r\n"


def text_of(charset, value):
    text = b'--edge\r\nContent-Disposition: form-data; name="image"\r\n\r\n%s\r\n--edge--\r\n' % value
    return text, {"Content_Type": f"multipart/form-data; boundary=edge; charset={charset}"}


FORM = {"Content_Type": "multipart/form-data; boundary=edge"}
RED = np.zeros((5, 7, 3), np.uint8)
RED[..., 0] = 255


@pytest.mark.parametrize("name", ["image", "anything"])
def test_a_form_as_curl_sends_it_gives_labels(server, name):
    status, answer = server.post("/predict/mean?range=0,1", form(**{name: encoded(RED)}), **FORM)
    assert status == 200
    assert answer["outputs"] == {"scores": [[1.0, 0.0, 0.0]]}
    assert answer["top"][0][0] == {"class": 0, "label": "red", "score": 1.0}
    assert [each["label"] for each in answer["top"][0]] == ["red", "green", "blue"]


def test_the_body_alone_will_do(server):
    assert server.post("/predict/mean/versions/1", encoded(RED))[1]["outputs"]["scores"] == [[255.0, 0.0, 0.0]]


def test_several_inputs_by_name(server):
    both = form(b=npy(np.float32([1, 2])), a=npy(np.float32([5, 5])))
    assert server.post("/predict/pair", both, **FORM)[1]["outputs"] == {"c": [4.0, 3.0]}


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "why"),
    [
        ("/predict", form(image=encoded(RED)), FORM, 400, "several models"),
        ("/predict/none", b"", {}, 404, "no model"),
        ("/predict/pair", form(a=npy(np.float32([1]))), FORM, 400, "lacks a file for input 'b'"),
        ("/predict/mean", form(image=encoded(RED), more=b"1"), FORM, 400, "no input 'more'"),
        ("/predict/mean", form(), FORM, 400, "lacks a file"),
        ("/predict/mean", b"nothing", FORM, 400, "form cannot be read|lacks a file"),
        ("/predict/mean", b"nothing", {"Content_Type": "multipart/form-data"}, 400, "form cannot be read"),
        ("/predict/mean", b"\xff" * 50, {"Content_Type": "multipart/form-data; boundary=\xff"}, 400, ""),
        ("/predict/mean", *text_of("undefined", b"a"), 400, "charset"),
        ("/predict/mean", *text_of("unicode_escape", b"\\ud800"), 400, "charset"),
        ("/predict/mean?range=1", form(image=encoded(RED)), FORM, 400, "LOW,HIGH"),
        ("/predict/rows", encoded(RED), {}, 400, "takes no image"),
    ],
)
def test_what_cannot_be_predicted_is_told(server, path, body, headers, status, why):
    found, _, answer = server.raw(request("POST", path, body, **headers))
    assert found == status
    assert re.search(why, json.loads(answer)["error"])


def test_one_model_needs_no_name(tmp_path):
    with serving(write_rows(tmp_path / "rows.onnx")) as address:
        assert address.post("/predict", npy(np.ones((1, 4))))[1]["model_name"] == "rows"


PIECES = [
    b"--edge",
    b"--",
    b"\r\n",
    b"\r\n\r\n",
    b"Content-Disposition: form-data; name=image",
    b'; filename="f"',
    b"\x93NUMPY\x01\0v\0",
]
PIECES += [
    b"Content-Disposition",
    b"Content-Type: a",
    b"Content-Transfer-Encoding: base64",
    encoded(RED),
    encoded(RED)[:60],
    b"\xff",
]


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES) | st.binary(max_size=5), max_size=12), whole=st.booleans())
def test_any_form_is_answered_or_refused(server, pieces, whole):
    status, answer = server.post("/predict/mean", b"".join(pieces), **({} if whole else FORM))
    assert status in (200, 400, 413)
    assert ("outputs" in answer) if status == 200 else set(answer) == {"error"}
