"""Keras' own test file for the layer, as installed, with kbn's class in place of Keras'."""

import importlib.util
import types
import unittest

import pytest
from keras.src import layers

import kbn

TEST_MODULE = "keras.src.layers.normalization.batch_normalization_test"
_SPEC = importlib.util.find_spec(TEST_MODULE)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_SPEC is None, reason="this Keras ships without its tests"),
]


def keras_tests():
    """The test methods of that file, every parametrised case one of them."""
    if _SPEC is None:
        return []
    module = importlib.util.module_from_spec(_SPEC)
    _SPEC.loader.exec_module(module)
    # Only the name that the tests construct the layer by; Keras itself keeps its own class.
    module.layers = types.SimpleNamespace(**{**vars(layers), "BatchNormalization": kbn.BatchNormalization})
    return list(unittest.defaultTestLoader.loadTestsFromTestCase(module.BatchNormalizationTest))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [pytest.param(case, id=case.id().rsplit(".", 1)[-1]) for case in keras_tests()])
def test_keras_own(case):
    result = case.run()
    problems = [trace for _, trace in [*result.failures, *result.errors]]
    assert not problems, problems[0]
    assert result.testsRun == 1


def test_they_were_found():
    assert len(keras_tests()) > 25
