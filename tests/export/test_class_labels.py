"""Names of the classes: what a file of them may hold, and the outputs that they fit."""

import json

import pytest

from kbn.export.class_labels import LABELS_KEY, labels_entry, read_labels
from kbn.export.errors import UsageError


@pytest.mark.parametrize("text", ["cat\ndog\n", "\ufeffcat\r\n dog \r\n\r\n", "cat\ndog"])
def test_a_name_a_line(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_bytes(text.encode())
    assert read_labels(path) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "empty"), (b"\n \n", "empty"), (b"cat\n\ndog\n", "Line 2"), (b"\xff\xfe\x00", "cannot be read")],
)
def test_what_holds_no_names_is_told(tmp_path, content, why):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"(?s){why}") as told:
        read_labels(path)
    assert "classes.txt" in str(told.value)


def test_as_many_as_an_output_has_classes():
    entry = labels_entry(["고양이", "dog", "dog"], [(None, 7, 3), (None, 4), (8, 3)])
    assert json.loads(entry[LABELS_KEY]) == ["고양이", "dog", "dog"]
    assert "고양이" in entry[LABELS_KEY]


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        ([(None, 4), (2, 5)], "4 and 5 classes"),
        ([(None, 8, 8, 3)], "no output of"),
        ([(None, None)], "no output of"),
    ],
)
def test_another_number_is_refused(outputs, found):
    with pytest.raises(UsageError, match=f"There are 3 labels.*{found}"):
        labels_entry(["a", "b", "c"], outputs)
