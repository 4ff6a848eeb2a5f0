"""Models of every structure, converted both ways: the same function, the same weights, the same names, and a model apart."""

import functools
import warnings
from collections import OrderedDict, namedtuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import kbn
from kbn.conversion import convert_model, keras_config

KINDS = {"kbn": kbn.BatchNormalization, "keras": layers.BatchNormalization}
OTHER = {"kbn": "keras", "keras": "kbn"}
Pair = namedtuple("Pair", "first second")


def norm(kind, name=None, **arguments):
    return KINDS[kind](name=name, **arguments)


def randomised(model, rng):
    """The model with random weights: signs too, except for what is a variance or a deviation."""
    for weight in model.weights:
        if "float" in weight.dtype:
            value = rng.normal(size=weight.shape) / np.sqrt(np.prod(weight.shape[:-1]))
            positive = "variance" in weight.name or "stddev" in weight.name
            weight.assign(np.abs(value) + 0.1 if positive else value)
    return model


def compute(model, inputs, **arguments):
    return [np.asarray(ops.cast(y, "float64")) for y in keras.tree.flatten(model(inputs, **arguments))]


def values(model):
    return [np.asarray(variable) for variable in model.variables]


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close(found, expected, tolerance=2e-6):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1, np.abs(other).max()))


def norms(model):
    return [layer for layer in model._flatten_layers() if type(layer) in KINDS.values()]


def described(model):
    """What must not change: of each layer the class, unless it is a normalization, the name, the flag and the policy."""
    return [
        (
            "norm" if type(layer) in KINDS.values() else type(layer),
            layer.name,
            layer.trainable,
            layer.dtype_policy.name,
            layer.built,
        )
        for layer in model._flatten_layers()
    ]


def of_weights(model):
    return [(w.path, tuple(w.shape), w.dtype, w.trainable) for w in model.weights]


# --- custom layers and models, which are not registered with Keras


class Attribute(layers.Layer):
    """Takes no **kwargs, and has no get_config()."""

    def __init__(self, kind):
        super().__init__()
        self.dense = layers.Dense(3)
        self.norm = norm(kind)

    def call(self, x):
        return self.norm(self.dense(x))


class MadeInBuild(layers.Layer):
    def __init__(self, kind, units=3, **kwargs):
        super().__init__(**kwargs)
        self.kind, self.units = kind, units

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")
        self.norm = norm(self.kind, name="inner_norm")
        self.norm.build(shape)
        self.dense = layers.Dense(self.units, name="inner_dense")
        self.dense.build(shape)

    def call(self, x, training=False):
        return self.dense(self.norm(x * self.scale, training=training))

    def get_config(self):
        return {**super().get_config(), "kind": self.kind, "units": self.units}


class Containers(layers.Layer):
    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.list = [norm(kind), layers.Dense(3), norm(kind)]
        self.dict = {"b": norm(kind), "a": layers.Dense(3)}
        self.ordered = OrderedDict(z=norm(kind), a=norm(kind))
        self.tuple = (layers.Dense(3), norm(kind))
        self.pair = Pair(norm(kind), norm(kind))
        self.nested = [[norm(kind)], {"c": [(norm(kind), layers.Dense(3))]}]
        self.set = {norm(kind)}
        self.again = self.list[0]

    def call(self, x):
        (inner, dense), *_ = self.nested[1]["c"]
        parts = [*self.list, *self.dict.values(), *self.ordered.values(), *self.tuple, *self.pair, *self.nested[0]]
        for part in (*parts, inner, dense, *self.set, self.again):
            x = part(x)
        return x


class Hidden(layers.Layer):
    """Calls its normalizations by ways that no attribute shows."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        first, second = self.kept = norm(kind), norm(kind)
        self.apply_first = lambda x: first(x)
        self.apply_second = functools.partial(second, training=False)

    def call(self, x):
        return self.apply_second(self.apply_first(x))


class WithModels(layers.Layer):
    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        shared = norm(kind)
        self.stack = keras.Sequential([layers.Dense(4), shared, layers.Dense(3)])
        inputs = keras.Input((3,))
        self.network = keras.Model(inputs, norm(kind)(layers.Dense(3)(norm(kind)(inputs))))
        self.shared = shared

    def build(self, shape):
        self.stack.build(shape)

    def call(self, x):
        return self.network(self.stack(x))


@keras.saving.register_keras_serializable("test_conversion")  # since Bidirectional copies it
class Cell(layers.Layer):
    def __init__(self, kind, units, **kwargs):
        super().__init__(**kwargs)
        self.kind, self.units, self.state_size = kind, units, units
        self.dense, self.norm = layers.Dense(units), norm(kind)

    def build(self, shape):
        self.dense.build((shape[0], shape[-1] + self.units))
        self.norm.build((shape[0], self.units))

    def call(self, x, states, training=False):
        y = self.norm(self.dense(ops.concatenate([x, states[0]], -1)), training=training)
        return y, [y]

    def get_config(self):
        return {**super().get_config(), "kind": self.kind, "units": self.units}


class Subclassed(keras.Model):
    """Without arguments Keras can make it anew by itself."""

    kind = "keras"

    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(4), norm(self.kind), Attribute(self.kind)]
        self.ends = {"norm": norm(self.kind), "drop": layers.Dropout(0.5)}
        self.backbone = keras.Sequential([layers.Dense(3), norm(self.kind)])

    def call(self, x, training=False):
        for block in self.blocks:
            x = block(x)
        return self.backbone(self.ends["drop"](self.ends["norm"](x, training=training), training=training))


class SubclassedKbn(Subclassed):
    kind = "kbn"


class WithArguments(keras.Model):
    """Keras keeps the arguments of a layer, but not those of a model."""

    def __init__(self, kind="keras", activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.kind, self.activation = kind, activation
        self.dense = layers.Dense(3, activation=activation)
        self.norm = norm(kind)
        self.times = [layers.Dense(2), (norm(kind),)]

    def call(self, x, training=False):
        return self.times[1][0](self.times[0](self.norm(self.dense(x), training=training)), training=training)


class WithConfig(WithArguments):
    def get_config(self):
        return {"kind": self.kind, "activation": self.activation, "name": self.name}


class Trained(keras.Model):
    """A functional model of a class of its own."""

    def train_step(self, data):
        return super().train_step(data)


class Network(keras.Model):
    """A functional model that makes its own graph."""

    def __init__(self, kind, units, name=None):
        inputs = keras.Input((3,))
        super().__init__(inputs, norm(kind, name="n")(layers.Dense(units, name="d")(inputs)), name=name)
        self.kind, self.units = kind, units

    def get_config(self):
        return {"kind": self.kind, "units": self.units, "name": self.name}


class Stack(keras.Sequential):
    """A Sequential model that adds its own layers."""

    kind = "keras"

    def __init__(self):
        super().__init__()
        self.add(layers.Dense(4))
        self.add(norm(self.kind))


class StackKbn(Stack):
    kind = "kbn"


# --- structures: each gives a model of normalizations of one kind, built, and what its inputs are shaped like


def functional(kind):
    inputs = keras.Input((6, 5, 3), name="image")
    x = norm(kind, name="first", momentum=0.8, epsilon=1e-2)(inputs)
    x = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    x = norm(kind, name="second", scale=False)(x)
    y = layers.Activation("relu", name="relu")(x)
    x = norm(kind, name="third", axis=1, center=False)(layers.Add()([x, y]))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="network")


def unnamed_inputs(kind):
    inputs = keras.Input((3,)), keras.Input((3,), batch_size=2)
    return keras.Model(inputs, [norm(kind)(inputs[0]), norm(kind)(inputs[1])])


def sequential(kind):
    return keras.Sequential([keras.Input((3,)), layers.Dense(4), norm(kind), layers.Dense(2), norm(kind)], name="stack")


def sequential_built_by_a_call(kind):
    model = keras.Sequential([layers.Dense(4), norm(kind), layers.Dense(2)])
    model(np.zeros((2, 3), "float32"))
    return model


def sequential_of_structures(kind):
    """Called on a dictionary, a Sequential model has no graph."""
    model = keras.Sequential([Joined(), norm(kind), layers.Dense(2)])
    model({"a": np.zeros((2, 3), "float32"), "b": np.zeros((2, 3), "float32")})
    return model


class Joined(layers.Layer):
    def call(self, x):
        return ops.concatenate([x["a"], x["b"]], -1)


def nested(kind):
    inner_inputs = keras.Input((4,), name="inner_input")
    inner = keras.Model(inner_inputs, norm(kind, name="n")(layers.Dense(3, name="d")(inner_inputs)), name="inner")
    stack = keras.Sequential([layers.Dense(4, name="d"), norm(kind, name="n"), inner], name="stack")
    inputs = keras.Input((3,))
    outputs = WithConfig(kind, "tanh", name="subclassed")(norm(kind, name="n")(stack(inputs)))
    return keras.Model(inputs, outputs, name="outer")


def shared(kind):
    """Layers, and a model, that are called again; and a model made of tensors and layers of the outer one."""
    inputs = keras.Input((3,))
    bn, dense = norm(kind, name="shared_norm"), layers.Dense(3, name="shared_dense")
    inner_inputs = keras.Input((3,))
    inner = keras.Model(inner_inputs, bn(layers.Dense(3)(inner_inputs)), name="shared_model")
    early = bn(dense(inputs))
    part = keras.Model(inputs, early, name="part")
    x = inner(inner(part(inputs))) + dense(bn(dense(early)))
    return keras.Model(inputs, [x, early])


def with_operations(kind):
    inputs = {"b": keras.Input((4, 3), name="b"), "a": keras.Input((4,), dtype="int32", name="a")}
    words = layers.Embedding(7, 3, mask_zero=True)(inputs["a"])
    frozen = norm(kind, name="frozen")(words, training=False)
    masked = norm(kind, name="masked")(inputs["b"], mask=ops.not_equal(inputs["a"], 0))
    x = ops.concatenate([frozen * 2 + masked, ops.relu(masked)[:, :, ::-1], 1.0 - words], axis=-1)
    first, second = ops.split(norm(kind, name="whole")(x), [4], axis=1)[0], ops.einsum("btc->bct", x)
    return keras.Model(inputs, {"y": norm(kind, name="end")(first), "z": (second, layers.GRU(2)(frozen))})


def wrapped(kind):
    inputs = keras.Input((4, 5, 3))
    x = layers.TimeDistributed(norm(kind))(inputs)
    x = layers.TimeDistributed(keras.Sequential([layers.Flatten(), layers.Dense(6), norm(kind)]))(x)
    x = layers.Bidirectional(layers.RNN(Cell(kind, 3), return_sequences=True))(x)
    return keras.Model(inputs, layers.RNN([Cell(kind, 3), Cell(kind, 2)])(x))


def chain(make):
    def model(kind):
        inputs = keras.Input((3,))
        return keras.Model(inputs, make(kind)(inputs))

    return model


def twice_a_composite(kind):
    inputs, layer = keras.Input((3,)), Containers(kind, name="containers")
    return keras.Model(inputs, layer(layer(inputs)))


def subclassed(kind):
    model = {"keras": Subclassed, "kbn": SubclassedKbn}[kind]()
    model(np.zeros((2, 3), "float32"))
    return model


def subclassed_with_config(kind):
    model = WithConfig(kind, "tanh", name="mine")
    model(np.zeros((2, 3), "float32"))
    return model


def functional_of_own_class(kind):
    inputs = keras.Input((3,))
    return Trained(inputs, norm(kind)(layers.Dense(4)(inputs)), name="trained")


def sequential_of_own_class(kind):
    model = {"keras": Stack, "kbn": StackKbn}[kind]()
    model.build((None, 3))
    return model


def renorm(kind):
    arguments = {"renorm": True, "renorm_clipping": {"rmax": 2.0, "dmax": 1.0}, "renorm_momentum": 0.8}
    return keras.Sequential([keras.Input((5, 3)), norm(kind, **arguments), layers.Dense(2), norm(kind, renorm=True)])


STRUCTURES = {
    "functional": functional,
    "unnamed inputs": unnamed_inputs,
    "Sequential": sequential,
    "Sequential built by a call": sequential_built_by_a_call,
    "Sequential without a graph": sequential_of_structures,
    "nested": nested,
    "shared": shared,
    "operations": with_operations,
    "wrapped": wrapped,
    "attribute": chain(Attribute),
    "made in build": chain(functools.partial(MadeInBuild, units=5)),
    "containers": chain(Containers),
    "composite called twice": twice_a_composite,
    "hidden": chain(Hidden),
    "models in a layer": chain(WithModels),
    "subclassed": subclassed,
    "subclassed with get_config()": subclassed_with_config,
    "functional of own class": functional_of_own_class,
    "functional that makes itself": lambda kind: Network(kind, 4, name="network"),
    "Sequential that makes itself": sequential_of_own_class,
    "renorm": renorm,
}


def inputs_of(model, rng):
    if not hasattr(model, "_inputs_struct") and getattr(model, "_functional", None) is None:
        x = rng.normal(size=(2, 3)).astype("float32")
        return {"a": x, "b": x[::-1]} if isinstance(model.layers[0], Joined) else x

    def draw(tensor):
        shape = [axis or 2 for axis in tensor.shape]
        return rng.integers(0, 3, shape) if "int" in tensor.dtype else rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(draw, model.input if hasattr(model, "_inputs_struct") else model.inputs[0])


@pytest.fixture(params=STRUCTURES)
def structure(request):
    return STRUCTURES[request.param]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_model_with_the_other_layers(structure, kind, rng):
    model = randomised(structure(kind), rng)
    inputs = inputs_of(model, rng)
    expected, state, description = compute(model, inputs), values(model), described(model)
    converted = convert_model(model, to=OTHER[kind])
    assert type(converted) is type(model)
    if hasattr(model, "inputs"):
        assert [tensor.name for tensor in converted.inputs] == [tensor.name for tensor in model.inputs]
    assert {type(layer) for layer in norms(converted)} == {KINDS[OTHER[kind]]}
    assert described(converted) == description
    assert [w[1:] for w in of_weights(converted)] == [w[1:] for w in of_weights(model)]
    assert_equal(values(converted), state)
    assert_close(compute(converted, inputs), expected)
    # The model itself is as it was.
    assert {type(layer) for layer in norms(model)} == {KINDS[kind]}
    assert described(model) == description
    assert_equal(values(model), state)
    assert_equal(compute(model, inputs), expected)
    again = convert_model(converted, to=kind)
    assert {type(layer) for layer in norms(again)} == {KINDS[kind]}
    assert_equal(values(again), state)
    assert_close(compute(again, inputs), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_a_model_apart(structure, kind, rng):
    model = randomised(structure(kind), rng)
    inputs = inputs_of(model, rng)
    converted = convert_model(model, to=OTHER[kind])
    assert not {id(v) for v in model.variables} & {id(v) for v in converted.variables}
    assert not {id(x) for x in model._flatten_layers()} & {id(x) for x in converted._flatten_layers()}
    before, state = compute(model, inputs), values(model)
    # Each normalization of the result counts in its outputs, and in those of nothing else.
    for layer in norms(converted):
        last = compute(converted, inputs)
        layer.moving_mean.assign(layer.moving_mean + 1.0)
        assert any(np.abs(new - old).max() > 1e-3 for new, old in zip(compute(converted, inputs), last, strict=True))
    assert_equal(compute(model, inputs), before)
    assert_equal(values(model), state)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_result_trains(structure, kind, rng):
    model = randomised(structure(kind), rng)
    inputs = inputs_of(model, rng)
    converted = convert_model(model, to=OTHER[kind])
    found, expected = (compute(one, inputs, training=True) for one in (converted, model))
    assert_close(found, expected, 1e-4)
    assert_close(values(converted), values(model), 1e-4)
    assert not converted.compiled
    with pytest.raises(ValueError, match="compile"):
        converted.fit(inputs)


def test_paths_of_weights_stay():
    """Keras finds a weight's layout, and its place in a state tree, by its path."""
    for structure in (functional, sequential, nested, shared, subclassed_with_config):
        model = structure("keras")
        assert of_weights(convert_model(model, to="kbn")) == of_weights(model)


def test_what_is_shared_stays_shared(rng):
    converted = convert_model(shared("keras"), to="kbn")
    assert len(norms(converted)) == 1
    inner, part = converted.get_layer("shared_model"), converted.get_layer("part")
    assert inner.get_layer("shared_norm") is converted.get_layer("shared_norm") is part.get_layer("shared_norm")
    assert part.inputs[0] is converted.inputs[0]
    composite = convert_model(chain(Containers)("keras"), to="kbn").layers[1]
    assert composite.again is composite.list[0]
    assert len({id(layer) for layer in composite._layers}) == len(composite._layers) == 15


def test_graphs_can_be_used_further(rng):
    """A part of the result is a model, and its configuration that of the whole."""
    model = randomised(nested("keras"), rng)
    converted = convert_model(model, to="kbn")
    x = inputs_of(model, rng)
    parts = [keras.Model(m.input, m.get_layer("n").output) for m in (converted, model)]
    assert_close(*(compute(part, x) for part in parts))
    with keras.saving.custom_object_scope({"WithConfig": WithConfig}):
        again = keras.Model.from_config(converted.get_config())
    again.set_weights(converted.get_weights())
    assert_close(compute(again, x), compute(model, x))
    assert type(again.get_layer("n")) is kbn.BatchNormalization


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_not_yet_built(kind, rng):
    for model in (keras.Sequential([layers.Dense(3), norm(kind, momentum=0.5)]), WithConfig(kind, "tanh")):
        converted = convert_model(model, to=OTHER[kind])
        assert not converted.built
        assert [type(layer) for layer in norms(converted)] == [KINDS[OTHER[kind]]] * len(norms(model))
        assert [layer.momentum for layer in norms(converted)] == [layer.momentum for layer in norms(model)]
        x = rng.normal(size=(4, 3)).astype("float32")
        model(x)
        converted(x)
        assert [w[1:] for w in of_weights(converted)] == [w[1:] for w in of_weights(model)]


def test_masks_and_frozen_calls_are_kept(rng):
    model = randomised(with_operations("keras"), rng)
    converted = convert_model(model, to="kbn")
    x = inputs_of(model, rng)
    state = {layer.name: layer.moving_mean.numpy() for layer in norms(converted)}
    compute(model, x, training=True)
    compute(converted, x, training=True)
    for ours, theirs in zip(norms(converted), norms(model), strict=True):
        assert_close([ours.moving_mean], [theirs.moving_mean.numpy()])
        assert ours.name == theirs.name
        assert np.abs(ours.moving_mean - state[ours.name]).max() > 0


def test_trainable_flags(rng):
    model = keras.Sequential([keras.Input((3,)), Containers("keras"), layers.Dense(2), MadeInBuild("keras")])
    composite, dense, made = model.layers
    composite.trainable = False
    composite.list[2].trainable = True
    dense.trainable = False
    made.norm.beta.trainable = False
    converted = convert_model(model, to="kbn")
    assert described(converted) == described(model)
    assert [w[1:] for w in of_weights(converted)] == [w[1:] for w in of_weights(model)]
    assert not converted.layers[0].trainable
    assert converted.layers[0].list[2].trainable
    assert [w.trainable for w in converted.layers[2].norm.weights] == [True, False, False, False]
    model.trainable = False
    assert described(convert_model(model, to="kbn")) == described(model)


def test_the_flag_of_a_layer_that_a_frozen_model_shares():
    inputs, inner_inputs, layer = keras.Input((3,)), keras.Input((3,)), layers.Dense(3)
    inner = keras.Model(inner_inputs, norm("keras")(layer(inner_inputs)))
    model = keras.Model(inputs, inner(layer(inputs)))
    inner.trainable = False
    layer.trainable = True
    assert described(convert_model(model, to="kbn")) == described(model)


def test_seed_generators_go_on(rng):
    model = keras.Sequential(
        [keras.Input((40,)), layers.Dropout(0.5), norm("keras"), layers.GaussianNoise(1.0, seed=3)]
    )
    x = rng.normal(size=(8, 40)).astype("float32")
    randomised(model, rng)
    model(x, training=True)
    converted = convert_model(model, to="kbn")
    found, expected = (compute(one, x, training=True) for one in (converted, model))
    assert_close(found, expected, 1e-4)
    assert not np.array_equal(compute(model, x, training=True)[0], expected[0])


def test_statistics_and_vocabularies_of_preprocessing(rng):
    numbers, words = keras.Input((3,), name="numbers"), keras.Input((2,), dtype="string", name="words")
    scaled, lookup, idle = layers.Normalization(), layers.StringLookup(), layers.StringLookup(vocabulary=["c"])
    scaled.adapt(rng.normal(5, 3, (50, 3)))
    lookup.adapt(np.array([["a", "b"], ["a", "c"]]))
    text = layers.TextVectorization(output_mode="tf_idf")
    text.adapt(np.array(["a b", "a c", "c d e"]))
    x = norm("keras")(scaled(numbers))
    y = norm("keras")(text(words[:, 0]))
    found = [layers.Embedding(5, 2)(lookup(words)), layers.Embedding(5, 2)(idle(words))]
    model = randomised(keras.Model({"numbers": numbers, "words": words}, [x, y, *found]), rng)
    adapted = scaled.adapt_mean.numpy() if hasattr(scaled, "adapt_mean") else None
    scaled.adapt(rng.normal(5, 3, (50, 3)))
    assert adapted is not None
    inputs = {
        "numbers": tf.constant(rng.normal(5, 3, (4, 3)), "float32"),
        "words": tf.constant([["a", "c"], ["d", "b"]] * 2),
    }
    assert_close(compute(convert_model(model, to="kbn"), inputs), compute(model, inputs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_float16", 2e-3), ("mixed_bfloat16", 2e-2), ("float64", 1e-13), ("float16", 2e-3)]
)
def test_dtype_policies(policy, tolerance, kind, rng):
    keras.config.set_dtype_policy(policy)
    try:
        model = randomised(nested(kind), rng)
    finally:
        keras.config.set_dtype_policy("float32")
    converted = convert_model(model, to=OTHER[kind])
    x = rng.normal(size=(5, 3))
    assert_close(compute(converted, x), compute(model, x), tolerance)
    for old, new in zip(model.weights, converted.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(new, "float64"), np.asarray(old, "float64"))
    # Keras' layer has no policy that computes in float16 alone and keeps its statistics in float32.
    renamed = {"float16": "mixed_float16"} if kind == "kbn" else {}
    for old, new in zip(model._flatten_layers(), converted._flatten_layers(), strict=True):
        expected = renamed.get(old.dtype_policy.name, old.dtype_policy.name) if old in norms(model) else None
        assert new.dtype_policy.name == (expected or old.dtype_policy.name)


def test_a_policy_that_is_no_longer_the_default(rng):
    """A constructor without **kwargs takes the policy of the day."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = chain(Attribute)("keras")
    finally:
        keras.config.set_dtype_policy("float32")
    assert described(convert_model(model, to="kbn")) == described(model)


def test_only_the_layer_itself_is_exchanged(rng):
    class Mine(layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training, mask=mask) * 2

    model = randomised(keras.Sequential([keras.Input((3,)), Mine(name="mine"), norm("keras"), norm("kbn")]), rng)
    x = rng.normal(size=(2, 3)).astype("float32")
    with pytest.warns(UserWarning, match=r"not exchanged.*'mine' \(Mine\)"):
        converted = convert_model(model, to="kbn")
    assert [type(layer) for layer in converted.layers] == [Mine, kbn.BatchNormalization, kbn.BatchNormalization]
    assert_close(compute(converted, x), compute(model, x))
    # It is none of kbn's, so there is nothing to say.
    back = convert_model(model, to="keras")
    assert [type(layer) for layer in back.layers] == [Mine, layers.BatchNormalization, layers.BatchNormalization]


def test_a_subclass_of_the_same_name_inside_a_wrapper(rng):
    class BatchNormalization(layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training, mask=mask) * 2

    stack = [BatchNormalization(name="mine"), norm("keras", name="theirs"), norm("kbn", name="ours")]
    stack = [layers.TimeDistributed(layer, name=f"over_{layer.name}") for layer in stack]
    model = randomised(keras.Sequential([keras.Input((4, 3)), *stack]), rng)
    x = rng.normal(size=(2, 4, 3)).astype("float32")
    with pytest.warns(UserWarning, match="'mine'"):
        converted = convert_model(model, to="kbn")
    inside = [type(layer.layer) for layer in converted.layers]
    assert inside == [BatchNormalization, kbn.BatchNormalization, kbn.BatchNormalization]
    assert_close(compute(converted, x), compute(model, x))


# --- what is kbn's alone


def test_what_keras_cannot_do_in_training_is_told_once(rng):
    own = {
        "ghost": {"virtual_batch_size": 2},
        "debiased": {"debias": True},
        "cumulative": {"momentum": None},
        "bessel": {"unbiased": True, "debias": True},
        "held": {"freeze": "statistics"},
        "plain": {"pivot": False},
        "frozen": {"freeze": "inference"},
    }
    stack = [kbn.BatchNormalization(name=name, **arguments) for name, arguments in own.items()]
    model = randomised(keras.Sequential([keras.Input((3,)), *stack]), rng)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        converted = convert_model(model, to="keras")
    (warning,) = caught
    assert warning.category is UserWarning
    assert warning.filename == __file__
    assert str(warning.message).endswith(
        "'ghost' (virtual_batch_size=2), 'debiased' (debias=True), 'cumulative' (momentum=None), "
        "'bessel' (debias=True, unbiased=True), 'held' (freeze='statistics')."
    )
    x = rng.normal(size=(4, 3)).astype("float32")
    assert_close(compute(converted, x), compute(model, x))
    for old, new in zip(model.layers, converted.layers, strict=True):
        assert type(new) is layers.BatchNormalization
        assert new.momentum == (0.99 if old.momentum is None else old.momentum)
        assert new.trainable is (old.name != "frozen")
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            np.testing.assert_array_equal(getattr(new, name), getattr(old, name))


def test_kbn_alone_needs_no_warning_and_keeps_its_own(rng):
    model = keras.Sequential([keras.Input((3,)), norm("kbn", debias=True, freeze="inference"), norm("keras")])
    randomised(model, rng)
    converted = convert_model(model, to="kbn")
    layer = converted.layers[0]
    assert layer.debias
    assert layer.freeze == "inference"
    np.testing.assert_array_equal(layer.moving_weight, model.layers[0].moving_weight)
    layer.freeze = None
    assert layer.trainable


def test_keras_config_is_what_keras_takes():
    layer = kbn.BatchNormalization(
        axis=[1], momentum=None, virtual_batch_size=4, freeze="inference", dtype="bfloat16", activity_regularizer="l2"
    )
    config = keras_config(layer.get_config())
    theirs = layers.BatchNormalization.from_config(config)
    assert (theirs.axis, theirs.momentum, theirs.trainable, theirs.dtype_policy.name) == (
        1,
        0.99,
        False,
        "mixed_bfloat16",
    )
    assert theirs.activity_regularizer is not None
    assert keras_config({**config, "dtype": "float16"})["dtype"] == "mixed_float16"
    # What Keras made goes through unchanged.
    config = layers.BatchNormalization(momentum=0.7, dtype="float64", renorm=True, trainable=False).get_config()
    assert keras_config(config) == config


# --- in place


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_in_place(kind, rng):
    model = WithArguments(kind, "tanh")
    model.compile("sgd", "mse")
    x, y = rng.normal(size=(4, 3)).astype("float32"), np.zeros((4, 2))
    model.fit(x, y, verbose=0)
    model.predict(x, verbose=0)
    randomised(model, rng)
    expected, state = compute(model, x), values(model)
    assert convert_model(model, to=OTHER[kind], in_place=True) is model
    assert [type(layer) for layer in norms(model)] == [KINDS[OTHER[kind]]] * 2
    assert model.times[1][0] in model._layers
    assert_equal(values(model), state)
    assert_close(compute(model, x), expected)
    # No function that was traced before is left.
    norms(model)[0].beta.assign(norms(model)[0].beta + 1.0)
    assert_close([model.predict(x, verbose=0)], compute(model, x))
    with pytest.raises(ValueError, match="compile"):
        model.fit(x, y, verbose=0)
    model.compile("sgd", "mse")
    before = norms(model)[0].moving_mean.numpy().copy()
    model.fit(x, y, verbose=0)
    assert np.abs(norms(model)[0].moving_mean - before).max() > 0


def test_in_place_in_graphs(rng):
    """Where a model that makes its own graph cannot be copied, its graph is changed."""

    class Bare(keras.Model):
        def __init__(self, units):
            inputs = keras.Input((3,))
            inner = keras.Sequential([layers.Dense(units, name="d"), norm("keras", name="n")], name="inner")
            x = norm("keras", name="n")(inner(inner(norm("keras", name="first")(inputs))))
            super().__init__(inputs, [x, x + 1.0])

    model = randomised(Bare(3), rng)
    x = rng.normal(size=(4, 3)).astype("float32")
    expected, description, state = compute(model, x), described(model), values(model)
    with pytest.raises(ValueError, match="in_place=True"):
        convert_model(model, to="kbn")
    convert_model(model, to="kbn", in_place=True)
    assert [type(layer) for layer in norms(model)] == [kbn.BatchNormalization] * 3
    assert described(model) == description
    assert_equal(values(model), state)
    assert_close(compute(model, x), expected)
    for layer in norms(model):
        last = compute(model, x)
        layer.moving_mean.assign(layer.moving_mean + 1.0)
        assert np.abs(compute(model, x)[0] - last[0]).max() > 1e-3
    # The graph is one of the new layers, for whoever reads it: Keras' own copy, a model of a part.
    plain = keras.Model(model.input, model.output)
    assert plain.get_layer("n") is model.get_layer("n")
    again = keras.Model.from_config(plain.get_config())
    again.set_weights(plain.get_weights())
    assert {type(layer) for layer in norms(again)} == {kbn.BatchNormalization}
    assert_close(compute(again, x), compute(model, x))
    part = keras.Model(model.input, model.get_layer("first").output)
    assert_close(compute(part, x), [model.get_layer("first")(x)])


@pytest.mark.parametrize("structure", [functional, sequential, functional_of_own_class])
def test_in_place_is_not_for_models_that_can_be_copied(structure):
    model = structure("keras")
    with pytest.raises(ValueError, match="`in_place` is for subclassed models"):
        convert_model(model, to="kbn", in_place=True)
    assert {type(layer) for layer in norms(model)} == {layers.BatchNormalization}


def test_in_place_with_nothing_to_exchange_leaves_the_model_compiled(rng):
    model = WithArguments("kbn")
    model.compile("sgd", "mse")
    assert convert_model(model, to="kbn", in_place=True) is model
    assert model.compiled


# --- other copies that are easily wrong


def test_what_was_assigned_to_a_normalization_inside_a_layer(rng):
    model = randomised(chain(Containers)("kbn"), rng)
    first, second, third = norms(model)[:3]
    first.momentum, second.epsilon, third.freeze = 0.5, 0.7, "statistics"
    x = rng.normal(size=(4, 3)).astype("float32")
    with pytest.warns(UserWarning, match="freeze='statistics'"):
        there = convert_model(model, to="keras")
    for converted in (there, convert_model(model, to="kbn")):
        assert [layer.momentum for layer in norms(converted)[:3]] == [0.5, 0.99, 0.99]
        assert [layer.epsilon for layer in norms(converted)[:3]] == [1e-3, 0.7, 1e-3]
        assert_close(compute(converted, x), compute(model, x))
    assert norms(converted)[2].freeze == "statistics"


def test_a_call_that_cannot_be_traced(rng):
    class Eager(WithConfig):
        def call(self, x, training=False):
            return super().call(x if float(np.sum(x)) > 0 else -x, training=training)

    model = Eager("keras", "tanh")
    x = rng.normal(size=(4, 3)).astype("float32")
    model(x)
    randomised(model, rng)
    converted = convert_model(model, to="kbn")
    assert of_weights(converted) == of_weights(model)
    assert_close(compute(converted, x), compute(model, x))


def test_lambdas_and_sparse_and_optional_inputs(rng):
    inputs = keras.Input((3,), name="x"), keras.Input((3,), optional=True, name="y")
    shift = 2.0
    x = layers.Lambda(lambda x: x * shift)(norm("keras")(inputs[0]))
    model = randomised(keras.Model(list(inputs), [x, layers.Identity()(inputs[1])]), rng)
    converted = convert_model(model, to="kbn")
    assert converted.get_layer("y").optional
    x = [rng.normal(size=(4, 3)).astype("float32")] * 2
    assert_close(compute(converted, x), compute(model, x))


@pytest.mark.slow
def test_keras_applications(rng):
    model = randomised(keras.applications.MobileNetV2(input_shape=(32, 32, 3), alpha=0.35, weights=None), rng)
    converted = convert_model(model, to="kbn")
    assert len(norms(converted)) == 52
    x = rng.normal(size=(2, 32, 32, 3)).astype("float32")
    assert_close(compute(converted, x), compute(model, x))


@pytest.mark.slow
def test_a_converted_model_loads_where_kbn_is_not(rng, run_python, tmp_path):
    inputs = keras.Input((4, 3))
    x = layers.TimeDistributed(norm("kbn"))(norm("kbn", renorm=True, pivot=False, freeze="inference")(inputs))
    model = randomised(keras.Model(inputs, keras.Sequential([layers.Dense(2), norm("kbn")])(x) * 2), rng)
    x = rng.normal(size=(2, 4, 3)).astype("float32")
    convert_model(model, to="keras").save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    run_python(
        "import sys\n"
        "sys.modules['kbn'] = None\n"
        "import keras, numpy as np\n"
        "model = keras.saving.load_model(sys.argv[1] + '/model.keras')\n"
        "np.save(sys.argv[1] + '/y.npy', model(np.load(sys.argv[1] + '/x.npy')))",
        str(tmp_path),
    )
    assert_close([np.load(tmp_path / "y.npy")], compute(model, x))


# --- refusals


def test_it_is_a_public_name():
    assert kbn.convert_model is convert_model
    assert "convert_model" in dir(kbn)


@pytest.mark.parametrize("to", ["Keras", "torch", None, kbn.BatchNormalization])
def test_another_target(to):
    with pytest.raises(ValueError, match=r"Argument `to` must be 'kbn' or 'keras'. Received: to="):
        convert_model(sequential("keras"), to=to)


@pytest.mark.parametrize("model", [layers.BatchNormalization(), "model.keras", None, [layers.Dense(3)]])
def test_no_model(model):
    with pytest.raises(TypeError, match=r"Argument `model` must be a keras.Model. Received: model="):
        convert_model(model, to="kbn")


class Whole(layers.Layer):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)


class Demanding(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm("keras")

    def call(self, x):
        return self.norm(x)

    def get_config(self):
        return layers.Layer.get_config(self)


class Forgetful(layers.Layer):
    def __init__(self, units=2, more=False, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.norm = layers.Dense(units), norm("keras")
        self.more = layers.Dense(units) if more else None

    def call(self, x):
        return self.norm(self.dense(x)) if self.more is None else self.norm(self.more(self.dense(x)))

    def get_config(self):
        return layers.Layer.get_config(self)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Whole(norm("keras")), r"Whole 'whole\w*' cannot be copied.*non-serializable argument"),
        (
            lambda: Forgetful(units=3),
            r"where it has the variable kernel \(3, 3\) float32, the copy has kernel \(3, 2\)",
        ),
        (lambda: Forgetful(more=True), r"Forgetful '\w+' cannot be copied.*has the layer Dense, the copy has nothing"),
    ],
)
def test_a_layer_that_cannot_be_copied(make, message):
    model = chain(lambda kind: make())("keras")
    with pytest.raises(ValueError, match=message) as caught:
        convert_model(model, to="kbn")
    assert "Give it get_config() that returns every argument of its constructor" in str(caught.value)


def test_a_model_that_cannot_be_copied():
    """Keras 3.15 would make it anew with the default activation."""
    model = WithArguments("keras", "tanh")
    model(np.zeros((2, 3), "float32"))
    with pytest.raises(ValueError, match=r"its arguments \['activation', 'kind'\].*in_place=True"):
        convert_model(model, to="kbn")


def test_sharing_that_a_configuration_loses():
    inner = norm("keras", name="shared")

    class Around(Whole):
        def get_config(self):
            return {"inner": keras.saving.serialize_keras_object(self.inner)}

        @classmethod
        def from_config(cls, config):
            return cls(keras.saving.deserialize_keras_object(config["inner"]))

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Around(inner)(inner(inputs)))
    with pytest.raises(ValueError, match="where it has the variable nothing, the copy has gamma"):
        convert_model(model, to="kbn")
