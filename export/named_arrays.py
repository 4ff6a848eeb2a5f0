"""Data that people give, as one array for each input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .wording import quote


def arrays_of(data: Any, names: Sequence[str], owner: str) -> list[NDArray[Any]]:
    """The arrays in the order of the inputs.

    Args:
        data: one array, a sequence with an array per input, or a mapping from input names to arrays. A mapping may also name
            them x, or x0, x1, ..., as npz files do.
        names: the inputs'.
        owner: whose inputs they are, for the message: "the model".

    Raises:
        UsageError: an array is missing.
    """
    listed = ", ".join(map(quote, names))
    if isinstance(data, Mapping):
        for keys in (names, [f"x{index}" for index in range(len(names))], ["x"] if len(names) == 1 else []):
            if keys and all(key in data for key in keys):
                return [np.asarray(data[key]) for key in keys]
        raise UsageError(
            f"The data names {', '.join(map(quote, data)) or 'nothing'}, but the inputs of {owner} are {listed}; name an array "
            "for each (or x0, x1, ... in their order)."
        )
    arrays = [np.asarray(item) for item in data] if isinstance(data, list | tuple) else [np.asarray(data)]
    if len(arrays) != len(names):
        held, taken = (
            f"{len(each)} {kind}{'s' * (len(each) != 1)}" for each, kind in ((arrays, "array"), (names, "input"))
        )
        raise UsageError(
            f"The data holds {held}, but {owner} has {taken}: {listed}. Give an array for each: a list, or "
            "by name a mapping (a .npz file). A list is not one array."
        )
    return arrays
