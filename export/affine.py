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
    def vectors(self) -> tuple[Vector, Vector]:
        """Scale and shift."""
        return self.scale, self.shift

    @property
    def is_linear(self) -> bool:
        """True where the shift is zero in every channel, so that zero maps to zero."""
        return not self.shift.any()

    @property
    def is_positive(self) -> bool:
        """True where the scale is above zero in every channel, so that the map keeps the order."""
        return bool((self.scale > 0).all())

    @property
    def is_uniform(self) -> bool:
        """True where every channel has the same scale and the same shift."""
        return bool((self.scale == self.scale[0]).all() and (self.shift == self.shift[0]).all())

    @property
    def is_identity(self) -> bool:
        """True where the map changes nothing."""
        return self.is_linear and bool((self.scale == 1).all())

    @classmethod
    def uniform(cls, scale: float, shift: float, channels: int, axis: int) -> Affine:
        """The same scale and shift for each of so many channels."""
        return cls(np.full(channels, scale, np.float64), np.full(channels, shift, np.float64), axis)

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

    def spread(self, channels: int, axis: int) -> Affine:
        """A uniform map on another axis."""
        return Affine.uniform(self.scale[0], self.shift[0], channels, axis)

    def part(self, start: int, stop: int) -> Affine:
        """The map on a range of the channels."""
        return Affine(self.scale[start:stop], self.shift[start:stop], self.axis)

    def scaling(self) -> Affine:
        """The scale alone: `scale * x`. `shifting` after it gives the whole map."""
        return replace(self, shift=np.zeros_like(self.shift))

    def shifting(self) -> Affine:
        """The shift alone: `x + shift`."""
        return replace(self, scale=np.ones_like(self.scale))

    def signed_and_positive(self) -> tuple[Affine, Affine]:
        """`size * (sign * x + shift / size)` with size = |scale| > 0: first a map of signs, then a positive scale.

        Where the scale is 0 the size is 1 and the sign 0. Exact but for the rounding of one division.
        """
        size = np.where(self.scale == 0, 1.0, np.abs(self.scale))
        return replace(self, scale=np.sign(self.scale), shift=self.shift / size), replace(
            self, scale=size, shift=np.zeros_like(size)
        )

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
