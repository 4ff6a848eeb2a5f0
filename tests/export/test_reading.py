"""Reading a model flat, and building it again: the same function, names and nesting."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kbn.export.reading import read
from kbn.export.rebuilding import rebuild
from trained_models import computed, random_inputs, randomized


def nested_twice():
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(5, name="dense"), layers.ReLU(name="relu")], name="inner")
    outer_in = keras.Input((5,))
    outer = keras.Model(outer_in, inner(inner(outer_in)), name="outer")
    inputs = keras.Input((5,), name="x")
    return keras.Model(inputs, layers.Dense(2, name="dense")(outer(inputs)), name="whole")


def dictionaries():
    inputs = {"b": keras.Input((3,), name="b"), "a": keras.Input((3,), name="a")}
    shared = layers.Dense(4, name="shared")
    return keras.Model(inputs, {"one": shared(inputs["a"]), "two": [ops.tanh(shared(inputs["b"]))]})


def states():
    inputs = keras.Input((6, 3), name="x")
    sequence, hidden, cell = layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(inputs)
    return keras.Model(inputs, [hidden, layers.Dense(2)(sequence), cell])


def same_tensor_twice():
    inputs = keras.Input((3,))
    tensor = layers.Dense(4)(inputs)
    return keras.Model(inputs, [tensor, tensor, inputs])


@pytest.mark.parametrize("build", [nested_twice, dictionaries, states, same_tensor_twice])
def test_a_model_read_and_built_again_is_the_same(build):
    model = randomized(build())
    again = rebuild(read(model))
    assert (again.name, again.output_names) == (model.name, model.output_names)
    inputs = random_inputs(model)
    for expected, found in zip(computed(model, inputs), computed(again, inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_nested_models_are_inlined_call_by_call():
    graph = read(nested_twice())
    assert [node.layer.name for node in graph.nodes] == ["dense_1", "relu", "dense_1", "relu", "dense"]
    assert [len(calls) for calls in graph.calls().values()] == [2, 2, 1]


@pytest.mark.parametrize("how", ["training", "by name", "other rank"])
def test_a_nested_model_whose_call_does_more_stays_whole(how):
    inner_in = [keras.Input((3,), name="left"), keras.Input((3,), name="right")]
    inner = keras.Model(inner_in, layers.Subtract(name="subtract")(inner_in), name="inner")
    one, other = keras.Input((3,), name="one"), keras.Input((3,) if how != "other rank" else (3, 1), name="other")
    if how == "training":
        tensor = inner([one, other], training=True)
    elif how == "by name":
        tensor = inner({"right": one, "left": other})
    else:
        tensor = inner([one, other])
    graph = read(keras.Model([one, other], tensor))
    assert [node.layer.name for node in graph.nodes] == ["inner"]


def test_a_tensor_that_is_passed_twice_is_counted_twice():
    inputs = keras.Input((3,))
    (node,) = read(keras.Model(inputs, layers.Add()([inputs, inputs]))).nodes
    assert len(node.inputs) == 2
