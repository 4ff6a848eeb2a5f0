"""What the layer's arguments may be: each function returns the argument as the layer keeps it, or raises ValueError."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from keras import initializers


def single_axis(axis: Any) -> int:
    """An integer; tf.keras 2 saved it as a list of one."""
    given = axis
    if isinstance(axis, list | tuple) and len(axis) == 1:
        axis = axis[0]
    try:
        if isinstance(axis, bool):
            raise TypeError
        return operator.index(axis)
    except TypeError:
        raise ValueError(
            f"Argument `axis` must be an integer, or a list of one integer. Received: axis={given!r}"
        ) from None


def check_axis(axis: int, shape: Any) -> None:
    """Raises ValueError unless a tensor of this shape has this axis."""
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"Axis {axis} is out of bounds for input shape {tuple(shape)}. Received: axis={axis}")


def fraction(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    # Comparing this way round refuses NaN too.
    if not (_is_number(value) and 0 <= value <= 1):
        raise ValueError(f"Argument `{name}` must be a number from 0 to 1. Received: {name}={value!r}")
    return float(value)


def fraction_or_none(name: str, value: Any) -> float | None:
    """A number from 0 to 1, or None."""
    return None if value is None else fraction(name, value)


def positive_integer(name: str, value: Any) -> int | None:
    """An integer of at least 1, or None."""
    if value is None:
        return None
    try:
        if isinstance(value, bool) or operator.index(value) < 1:
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"Argument `{name}` must be a positive integer or None. Received: {name}={value!r}") from None


def choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """One of `choices`."""
    if value not in choices:
        allowed = " or ".join(map(repr, choices))
        raise ValueError(f"Argument `{name}` must be {allowed}. Received: {name}={value!r}")
    return value


def non_negative(name: str, value: Any) -> float:
    """A finite number that is not negative."""
    if not (_is_number(value) and 0 <= value < float("inf")):
        raise ValueError(f"Argument `{name}` must be a finite, non-negative number. Received: {name}={value!r}")
    return float(value)


def clipping(limits: Mapping[str, float] | None) -> Mapping[str, float]:
    """The limits of batch renormalization: any of "rmax", "rmin" and "dmax", not contradicting each other."""
    limits = limits or {}
    keys = ["rmax", "rmin", "dmax"]
    if set(limits) - set(keys):
        raise ValueError(f"Received invalid keys for `renorm_clipping` argument: {limits}. Supported values: {keys}.")
    rmax, rmin, dmax = (limits.get(key) for key in keys)
    if rmax is not None and rmin is not None and rmax < rmin:
        raise ValueError(
            f"rmax should be greater than rmin in the `renorm_clipping` argument. Received: rmax={rmax}, rmin={rmin}."
        )
    if dmax is not None and dmax < 0:
        raise ValueError(f"dmax should be non-negative in the `renorm_clipping` argument. Received: dmax={dmax}.")
    return limits


def clone(initializer: Any) -> Any:
    """The initializer with a seed of its own: a random one must not give two weights the same values."""
    if isinstance(initializer, initializers.Initializer):
        return type(initializer).from_config(initializer.get_config())
    return initializer


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool | str) and float(value) == value
    except (TypeError, ValueError):
        return False
