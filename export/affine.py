"""The per-channel affine map, which is what batch normalization is at inference.

    y = scale * x + shift            along one axis of x, with
    scale = gamma / sqrt(variance + epsilon)
    shift = beta - mean * scale      (Ioffe and Szegedy 2015, algorithm 2, step 11)

Everything here is float64 numpy: no layer, no graph, no file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affine:
    """`y = scale * x + shift`, broadcast along `axis` of a tensor.

    Attributes:
        scale: float64, shape (channels,).
        shift: float64, shape (channels,).
        axis: the axis of the tensor that holds the channels, counted from 0 at the batch axis.
    """

    scale: Vector
    shift: Vector
    axis: int

    def __post_init__(self) -> None:
        if self.scale.ndim != 1 or self.scale.shape != self.shift.shape:
            raise ValueError(
                f"scale and shift must be vectors of one length, got {self.scale.shape}, {self.shift.shape}"
            )
        if self.axis < 0:
            raise ValueError(f"axis must be counted from 0, got {self.axis}")

    @classmethod
    def from_moments(
        cls,
        mean: ArrayLike,
        variance: ArrayLike,
        epsilon: float,
        *,
        gamma: ArrayLike | None = None,
        beta: ArrayLike | None = None,
        axis: int,
    ) -> Affine:
        """The map that a batch normalization with these vectors of shape (channels,) applies at inference."""
        mean = np.asarray(mean, np.float64)
        scale = 1.0 / np.sqrt(np.asarray(variance, np.float64) + epsilon)
        if gamma is not None:
            scale = scale * np.asarray(gamma, np.float64)
        shift = -mean * scale
        if beta is not None:
            shift = shift + np.asarray(beta, np.float64)
        return cls(scale, shift, axis)

    @property
    def channels(self) -> int:
        return len(self.scale)

    @property
    def is_linear(self) -> bool:
        """True where the shift is zero in every channel, so that zero maps to zero."""
        return not self.shift.any()

    def after(self, first: Affine) -> Affine:
        """The map that applies `first`, then this: `scale * (scale1 * x + shift1) + shift`."""
        if (first.axis, first.channels) != (self.axis, self.channels):
            raise ValueError(
                f"maps along axes {first.axis} and {self.axis} with {first.channels} and {self.channels} channels "
                "do not compose into one"
            )
        return Affine(self.scale * first.scale, self.scale * first.shift + self.shift, self.axis)

    def repeat(self, count: int, axis: int) -> Affine:
        """Each channel `count` times in a row, as flattening with the channels outermost lays them out."""
        return Affine(np.repeat(self.scale, count), np.repeat(self.shift, count), axis)

    def tile(self, count: int, axis: int) -> Affine:
        """All channels `count` times over, as flattening with the channels innermost lays them out."""
        return Affine(np.tile(self.scale, count), np.tile(self.shift, count), axis)

    def along(self, axis: int) -> Affine:
        """The same map on a tensor whose channels lie on another axis."""
        return replace(self, axis=axis)

    def equals(self, other: Affine) -> bool:
        """Whether both are the same map, bit for bit."""
        return (
            self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.shift, other.shift)
        )

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        """The map applied to an array, in float64."""
        x = np.asarray(x, np.float64)
        shape = [1] * x.ndim
        shape[self.axis] = self.channels
        return x * self.scale.reshape(shape) + self.shift.reshape(shape)
