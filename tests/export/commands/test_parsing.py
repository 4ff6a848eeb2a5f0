"""Values of options: what they mean, and each form that is refused."""

import pytest

from kbn.export.commands.parsing import parse_names, parse_shapes
from kbn.export.errors import UsageError


def test_shapes():
    assert parse_shapes(None) is None
    assert parse_shapes(["image=?,224, 224,3", "a=b=1,?"]) == {"image": (None, 224, 224, 3), "a=b": (1, None)}


@pytest.mark.parametrize(
    "value",
    ["1,224,224,3", "=1,2", "image=", "image=1,x", "image=1.5", "image=1,,3", "image=-1", "image=batch,2", "image=²"],
)
def test_shapes_of_another_form(value):
    with pytest.raises(UsageError, match="NAME=SIZE"):
        parse_shapes([value])


def test_names():
    assert parse_names(None) is None
    assert parse_names(["input_1=image", "a=b=c"]) == {"input_1": "image", "a": "b=c"}


@pytest.mark.parametrize("value", ["image", "=image", "image="])
def test_names_of_another_form(value):
    with pytest.raises(UsageError, match="OLD=NEW"):
        parse_names([value])
