"""An answer for people: the outputs by name, and of a classification the best classes with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..class_labels import has_classes

Array = NDArray[Any]

_BEST = 5


def plain_answer(arrays: Mapping[str, Array], labels: Sequence[str]) -> dict[str, Any]:
    """{"outputs": {name: values}, "top": [per example the best classes]}; `top` is of the first output that has classes."""
    outputs = {
        name: [str(item) for item in each.flat] if each.dtype == object else each for name, each in arrays.items()
    }
    answer: dict[str, Any] = {"outputs": outputs}
    for array in arrays.values():
        if has_classes(array.shape, array.dtype, labels):
            answer["top"] = [_best(row, labels) for row in array]
            break
    return answer


def _best(row: Array, labels: Sequence[str]) -> list[dict[str, Any]]:
    order = np.argsort(-row, kind="stable")[:_BEST]
    return [
        {"class": int(index), **({"label": labels[index]} if labels else {}), "score": float(row[index])}
        for index in order
    ]
