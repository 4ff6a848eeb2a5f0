"""A bound on what a configuration may allocate before its weights are read.

Keras creates a model's variables from the configuration alone, at whatever size that asks for. A file holds every
weight of its model, so a model that needs far more numbers than the file holds is not the one that was saved.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import BrokenModelError
from .wording import quote

# Weights that are created but not saved (adapters merged at saving, states of stateful layers) must fit in here.
_FACTOR = 2
_ALLOWANCE = 2**24  # numbers: 64 MiB of float32


@contextmanager
def weight_budget(source: str, stored: int) -> Iterator[None]:
    """Within, raise BrokenModelError as soon as layers ask for far more than `stored` numbers of weights in all.

    It watches `keras.Layer.add_weight`, the one place where layers create weights, for the time of the `with`.
    """
    import keras

    budget = _FACTOR * stored + _ALLOWANCE
    create = keras.Layer.add_weight
    asked = 0

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        shape = kwargs.get("shape", args[0] if args and not isinstance(args[0], str) else ())
        asked += math.prod([shape] if isinstance(shape, int) else [size or 0 for size in shape or ()])
        if asked > budget:
            raise BrokenModelError(
                f"{source}: layer {quote(self.name)} asks for a weight of shape {quote(shape)}, with which the model "
                f"has {asked} weights where the file stores {stored}. Its configuration does not belong to its weights: "
                f"save the model again."
            )
        return create(self, *args, **kwargs)

    keras.Layer.add_weight = counted
    try:
        yield
    finally:
        keras.Layer.add_weight = create
