"""What the layer refuses, each with what was found."""

import numpy as np
import pytest
from keras import initializers

import kbn
from kbn import arguments


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("momentum", "renorm_momentum")
            for value in (1.5, -0.1, float("nan"), "0.9", True)
        ),
        ("renorm_momentum", None),
    ],
)
def test_momentum_is_a_fraction(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be a number from 0 to 1\. Received: {name}="):
        kbn.BatchNormalization(**{name: value})


@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf"), None, "small"])
def test_epsilon_is_not_negative(value):
    with pytest.raises(ValueError, match=r"`epsilon` must be a finite, non-negative number\. Received: epsilon="):
        kbn.BatchNormalization(epsilon=value)


@pytest.mark.parametrize("axis", [1.7, 1.0, "1", None, True, [1, 2], [], [0.5]])
def test_axis_is_an_integer(axis):
    with pytest.raises(ValueError, match=r"`axis` must be an integer, or a list of one integer\. Received: axis="):
        kbn.BatchNormalization(axis=axis)


@pytest.mark.parametrize(("axis", "kept"), [(2, 2), ([3], 3), ((-1,), -1), (np.int64(1), 1)])
def test_axis_is_kept_as_an_integer(axis, kept):
    assert type(arguments.single_axis(axis)) is int
    assert arguments.single_axis(axis) == kept


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"rmax": 0.5, "rmin": 1.0}, r"rmax should be greater than rmin .* rmax=0\.5, rmin=1\.0"),
        ({"dmax": -1.0}, r"dmax should be non-negative .* dmax=-1\.0"),
        ({"r": 1.0}, r"invalid keys .*\{'r': 1\.0\}.*\['rmax', 'rmin', 'dmax'\]"),
    ],
)
def test_clipping(limits, message):
    with pytest.raises(ValueError, match=message):
        kbn.BatchNormalization(renorm=True, renorm_clipping=limits)
    # Without renorm it is not used, and not checked, as in Keras.
    assert kbn.BatchNormalization(renorm_clipping=limits).renorm_clipping == limits


def test_clone_of_a_random_initializer_has_its_own_seed():
    original = initializers.RandomNormal()
    copy = arguments.clone(original)
    assert copy is not original
    assert not np.array_equal(copy((5,)), original((5,)))
    assert arguments.clone("zeros") == "zeros"


@pytest.mark.parametrize("value", [0, -3, 2.0, "8", True])
def test_virtual_batch_size_is_a_positive_integer(value):
    with pytest.raises(
        ValueError, match=r"`virtual_batch_size` must be a positive integer or None\. Received: virtual"
    ):
        kbn.BatchNormalization(virtual_batch_size=value)


@pytest.mark.parametrize("value", ["all", True, 0])
def test_freeze_is_one_of_three(value):
    with pytest.raises(ValueError, match=r"`freeze` must be None or 'statistics' or 'inference'\. Received: freeze="):
        kbn.BatchNormalization(freeze=value)


def test_ghost_batches_and_synchronisation_contradict_each_other():
    with pytest.raises(ValueError, match=r"contradict each other.*synchronized=True, virtual_batch_size=4"):
        kbn.BatchNormalization(synchronized=True, virtual_batch_size=4)


def test_ghost_batches_need_the_first_axis():
    with pytest.raises(ValueError, match=r"axis=0, virtual_batch_size=4"):
        kbn.BatchNormalization(axis=0, virtual_batch_size=4).build((8, 3))


def test_an_exponential_average_does_not_become_a_cumulative_one():
    layer = kbn.BatchNormalization()
    layer.momentum = None
    layer.build((None, 3))
    with pytest.raises(ValueError, match=r"momentum=0\.9 after momentum=None"):
        layer.momentum = 0.9
