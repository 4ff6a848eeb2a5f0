"""`kbn audit` as a user types it: tables, JSON, the page, and its exit codes."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

import kbn
from command_line import run_here
from kbn.diagnostics import audit
from kbn.export import AuditPage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sound model and one that was never trained, with their data."""
    path = tmp_path_factory.mktemp("audit")
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, (64, 8, 8, 3)).astype("float32")
    inputs = keras.Input((8, 8, 3), name="image")
    tensor = kbn.BatchNormalization(name="bn")(layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs))
    tensor = layers.GlobalAveragePooling2D()(layers.ReLU(name="relu")(tensor))
    model = keras.Model(inputs, layers.Dense(5, activation="softmax", name="classes")(tensor))
    model.save(path / "untrained.keras")
    kbn.recalibrate(model, x, verbose=0)
    model.save(path / "sound.keras")
    np.save(path / "x.npy", x)
    np.savez(path / "x.npz", image=x)
    np.save(path / "wrong.npy", x[..., :2])
    (path / "images").mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), "uint8")).save(path / "images" / f"{number}.png")
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *arguments: run_here(monkeypatch, capsys, "audit", *arguments)


@pytest.mark.parametrize("data", ["x.npy", "x.npz"])
def test_a_sound_model_passes(folder, run, data):
    done = run(folder / "sound.keras", "--data", folder / data, "--batch-size", 32, "--steps", 1000)
    assert done.returncode == 0
    for words in ("Batch normalizations", "bn", "trains", "1,000", "nothing wrong", "Outputs", "classes", "PASSED"):
        assert words in done.stdout
    for title in ("Wrong", "Worth knowing", "Notes"):
        assert f"{title}\n" not in done.stdout
    assert done.stderr.split("\n")[-2:] == ["audit ...", ""]


def test_a_fault_fails_with_exit_code_1(folder, run):
    done = run(folder / "untrained.keras", "--data", folder / "x.npy")
    assert done.returncode == 1
    for words in ("never-updated", "1 wrong", "The training batch size is not known", "FAILED"):
        assert words in " ".join(done.stdout.split())


def test_images_and_json(folder, run):
    done = run(folder / "sound.keras", "--data", folder / "images", "--json")
    document = json.loads(done.stdout)
    # Pixels of 0 to 255 are not what the model was calibrated with, and it says so.
    assert done.returncode == 1
    assert document["model"].endswith("sound.keras")
    assert [(finding["code"], finding["severity"]) for finding in document["findings"]] == [("stale-averages", "wrong")]


def test_what_it_is_given_is_checked(folder, run):
    assert run(folder / "sound.keras").returncode == 2
    done = run(folder / "sound.keras", "--data", folder / "wrong.npy")
    assert done.returncode == 2
    assert "shape (64, 8, 8, 2)" in done.stderr
    assert run(folder / "sound.keras", "--data", folder / "none.npy").returncode == 2
    assert run(folder / "none.keras", "--data", folder / "x.npy").returncode == 2
    assert run(folder / "sound.keras", "--data", folder / "x.npy", "--batch-size", 0).returncode == 2


def test_the_page(folder, run, tmp_path):
    done = run(folder / "untrained.keras", "--data", folder / "x.npy", "--report", tmp_path / "a.html")
    assert done.returncode == 1
    page = (tmp_path / "a.html").read_text()
    for words in ("never-updated", "FAILED", "Moving averages against the data", "what sampling explains"):
        assert words in page
    assert page.count("1 batch normalization, 64 examples: 1 wrong") == 1
    assert 'class="track failed"' in page


def test_the_page_of_an_audit_from_python(folder, tmp_path):
    model = keras.models.load_model(folder / "sound.keras")
    page = AuditPage(audit(model, np.load(folder / "x.npy"), batch_size=32))
    assert page.passed
    page.save(tmp_path / "a.html")
    page.save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(page.to_json())


def test_the_findings_on_a_phone(folder, tmp_path, browser):
    model = keras.models.load_model(folder / "untrained.keras")
    AuditPage(audit(model, np.load(folder / "x.npy"))).save(tmp_path / "a.html")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto((tmp_path / "a.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    widths = page.evaluate("[...document.querySelectorAll('.prose td')].map(e => e.clientWidth)")
    assert len(widths) >= 4
    assert min(widths) > 300
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.prose td:nth-child(3)'), '::before').content")
        == '"what"'
    )
    page.close()


def test_frozen_layers_are_said_to_keep_their_averages(folder):
    model = keras.models.load_model(folder / "sound.keras")
    notes = []
    for trainable in (True, False):
        model.get_layer("bn").trainable = trainable
        tables = AuditPage(audit(model, np.load(folder / "x.npy"))).tables()
        notes += [table.note for table in tables if table.title == "Outputs"]
    assert ["keep their averages" in note for note in notes] == [False, True]


def test_a_model_without_batch_normalization(tmp_path, run):
    keras.Sequential([keras.Input((4,)), layers.Dense(2)]).save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", np.ones((4, 4)))
    done = run(tmp_path / "m.keras", "--data", tmp_path / "x.npy", "--report", tmp_path / "a.html")
    assert done.returncode == 0
    assert "no batch normalization" in done.stdout
    assert (tmp_path / "a.html").read_text().count("no batch normalization") == 1


def test_a_subclass_whose_layer_trains_in_inference(tmp_path):
    from kbn.export.auditing import audit as audit_file

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = layers.BatchNormalization(name="bn")

        def call(self, inputs):
            return self.norm(inputs, training=True)

    model, x = Model(), np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    model(x)
    page = audit_file(model, x)
    assert "training-true" in {finding.code for finding in page.audit.findings}
