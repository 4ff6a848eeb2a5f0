"""What an audit knows of one batch normalization, as plain numbers."""

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kbn.batch_normalization import BatchNormalization
from kbn.diagnostics.sampling import Population
from kbn.diagnostics.surroundings import Surroundings
from kbn.diagnostics.witness import Witness

# A channel is dead where the spread of its output is below float16's rounding (2^-11) of that of the layer's strongest: a
# sum over the channels in half precision does not tell it from a constant.
DEAD = 2.0**-11
_SIGMAS = 3.0
# The batch size where the true one is not known.
YARDSTICK = 32
# Of up to so many examples the errors cannot be estimated: Student's distribution has no variance. Nothing is said of them.
FEWEST = 3
# With n examples that all agree, 95 % certain is that fewer than 3 in n of all inputs do not ("rule of three"): 1 in 10.
ENOUGH_TO_AGREE = 30


@dataclass(frozen=True)
class Facts:
    """One batch normalization as the audit found it.

    `departure`, `allowed` and `batch_noise` are changes of the layer's output against its spread: see
    `kbn.diagnostics.sampling`. None stands for what the model and the data do not tell; of up to 3 examples that is all that
    is measured.

    Attributes:
        layer: its name; where several of a model have one name, its path.
        library: whose it is, "kbn" or "keras".
        channels: their number.
        mode: "trains", or why it does not.
        trains: whether `fit` runs it with the batch's statistics and updates its averages.
        trains_in_predict, trains_in_call: whether predict() and model(x) do so too.
        written: the `training` that is written into its call in a functional model.
        momentum: None for the mean of all batches.
        steps: training steps that its averages have seen.
        kept: how much of the averages is still what they held before these.
        initial: whether the averages are exactly what they were initialised with.
        finite: whether the averages are finite and the variance not negative.
        skipped: batches that changed no average since the layer was made.
        examples: of the data, that reached it.
        departure: of the moving averages from the statistics of the data.
        allowed: how large that may be by the sampling errors of both: 3 of their standard deviations.
        batch_noise: that of the statistics of one batch.
        elements: independent elements per channel in one batch, the median over the channels that vary; None where the
            batch size is not known.
        dead: channels whose output hardly varies.
        below_epsilon: channels, not dead ones, whose variance is less than epsilon.
        epsilon: the layer's.
        silent: channels, not dead ones, that the ReLU after the layer made 0 everywhere; None where no ReLU follows,
            or the examples are few.
        bias_of: the layer before, where its bias does nothing; else "".
        bias_size: the number of parameters in that bias.
        frozen_before: the layer before, where it is frozen; else "".
        corrected: whether batch renormalization takes the noise of small batches out.
    """

    layer: str
    library: str
    channels: int
    mode: str
    trains: bool
    trains_in_predict: bool
    trains_in_call: bool
    written: bool | None
    momentum: float | None
    steps: int | None
    kept: float | None
    initial: bool
    finite: bool
    skipped: int
    examples: float
    departure: float | None
    allowed: float | None
    batch_noise: float | None
    elements: float | None
    dead: int | None
    below_epsilon: int | None
    epsilon: float
    silent: int | None
    bias_of: str
    bias_size: int
    frozen_before: str
    corrected: bool

    @property
    def departs(self) -> bool:
        """Whether the averages are further from the data than their errors, and than those of a single batch."""
        known = self.departure is not None and self.allowed is not None and self.batch_noise is not None
        return known and self.departure > max(self.allowed, self.batch_noise)  # type: ignore[operator,type-var]


def facts(witness: Witness, around: Surroundings, name: str, batch_size: int | None, iterations: int | None) -> Facts:
    """The facts of one layer, once the witness has seen the data.

    Args:
        batch_size: examples in a batch while training; None where it is not known, for which 32 stand in.
        iterations: training steps of the model; None where they are not known.
    """
    layer, population = witness.layer, witness.population()
    mean, variance = (
        np.asarray(ops.convert_to_numpy(average), "float64") for average in (layer.moving_mean, layer.moving_variance)
    )
    finite = bool(np.isfinite(mean + variance).all() and (variance >= 0).all())
    initial = _is_initial(layer, mean, variance)
    steps, kept = _steps(layer, iterations, initial, witness.trains["fit"])
    ghost = getattr(layer, "virtual_batch_size", None)
    return Facts(
        layer=name,
        library="kbn" if isinstance(layer, BatchNormalization) else "keras",
        channels=len(mean),
        mode=witness.reason or "trains",
        trains=witness.trains["fit"],
        trains_in_predict=witness.trains["predict"],
        trains_in_call=witness.trains["call"],
        written=around.written,
        momentum=layer.momentum,
        steps=steps,
        kept=kept,
        initial=initial,
        finite=finite,
        skipped=getattr(layer, "skipped_batches", 0),
        epsilon=float(layer.epsilon),
        corrected=bool(layer.renorm),
        **_before(around.before, layer, witness.trains["fit"]),
        **_measured(
            population,
            layer,
            (mean, variance) if finite else None,
            batch_size and min(batch_size, ghost or batch_size),
            steps,
            around.rectified,
        ),
    )


def _is_initial(layer: Any, *averages: Any) -> bool:
    """Whether the averages are what constant initializers, which all usual ones are, have made them."""
    constants = (keras.initializers.Zeros, keras.initializers.Ones, keras.initializers.Constant)
    pairs = zip((layer.moving_mean_initializer, layer.moving_variance_initializer), averages, strict=True)
    return all(
        isinstance(initializer, constants)
        and np.array_equal(ops.convert_to_numpy(initializer(value.shape, dtype="float32")), value.astype("float32"))
        for initializer, value in pairs
    )


def _steps(layer: Any, iterations: int | None, initial: bool, trains: bool) -> tuple[int | None, float | None]:
    """How many steps the averages have seen, and how much of what they were before is left in them."""
    weight = getattr(layer, "moving_weight", None)
    momentum = layer.momentum
    if weight is not None:
        held = float(np.median(ops.convert_to_numpy(weight)))
        if momentum is None:
            return round(held), None
        # 1 - momentum^t; in float32 it is 1 once the steps can no longer be told.
        steps = round(math.log1p(-held) / math.log(momentum)) if held < 1 - 1e-5 and 0 < momentum < 1 else None
        return steps, None
    # An optimizer that has not stepped yet says nothing of averages that have moved.
    steps = 0 if initial else iterations or None
    return steps, momentum**steps if steps and trains else None


def _before(before: Any, layer: Any, trains: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"bias_of": "", "bias_size": 0, "frozen_before": ""}
    if before is None or not trains:
        return found
    # The bias is one number per channel of the layer before; the normalization must have the same channels.
    bias = before.bias if getattr(before, "bias", None) is not None else None
    if bias is not None and math.prod(bias.shape) == layer.moving_mean.shape[0] and _same_axis(before, layer):
        found |= {"bias_of": before.name, "bias_size": math.prod(bias.shape)}
    if before.weights and not before.trainable:
        found["frozen_before"] = before.name
    return found


def _same_axis(before: Any, layer: Any) -> bool:
    rank = len(layer.input_spec.shape or ()) or layer.input_spec.ndim
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    first = getattr(before, "data_format", None) == "channels_first"
    return bool(axis % rank == (1 if first else rank - 1))


def _measured(
    population: Population | None, layer: Any, averages: Any, batch_size: int | None, steps: int | None, rectified: bool
) -> dict[str, Any]:
    names = ("departure", "allowed", "batch_noise", "elements", "dead", "below_epsilon", "silent")
    examples = 0.0 if population is None else population.examples
    if population is None or examples <= FEWEST:
        return dict.fromkeys(names) | {"examples": examples}
    epsilon, size = float(layer.epsilon), batch_size or YARDSTICK
    gamma, beta = (
        default if weight is None else np.asarray(ops.convert_to_numpy(weight), "float64")
        for weight, default in ((layer.gamma, 1.0), (layer.beta, 0.0))
    )
    noise = population.noise(gamma, epsilon)
    # The noise is an estimate too: Student's distribution of examples - 1 degrees is wider by this.
    wider = math.sqrt((examples - 1) / (examples - 3))
    share = _share_of_batch(layer.momentum, steps)
    output = np.abs(gamma) * np.sqrt(population.variance / (population.variance + epsilon))
    strongest = np.nanmax(output, initial=0.0)
    dead = ~(output > DEAD * strongest) & np.isfinite(population.mean)
    elements = population.elements_of_an_example()[~dead]
    scale = gamma / np.sqrt(population.variance + epsilon)
    ends = [scale * (end - population.mean) + beta for end in (population.low, population.high)]
    silent = (np.maximum(*ends) <= 0) & ~dead
    return {
        "examples": examples,
        "departure": population.departure(averages[0], averages[1], gamma, epsilon) if averages else None,
        "allowed": _SIGMAS * wider * noise * math.sqrt(1 / examples + share / size),
        "batch_noise": noise / math.sqrt(size),
        "elements": float(np.nanmedian(elements)) * batch_size if batch_size and np.isfinite(elements).any() else None,
        "dead": int(dead.sum()),
        "below_epsilon": int(((population.variance < epsilon) & ~dead).sum()),
        "silent": int(silent.sum()) if rectified and examples >= ENOUGH_TO_AGREE else None,
    }


def _share_of_batch(momentum: float | None, steps: int | None) -> float:
    """The variance of a moving average of independent batches, against that of one batch."""
    if momentum is None:
        return 1 / steps if steps else 0.0
    return (1 - momentum) / (1 + momentum)
