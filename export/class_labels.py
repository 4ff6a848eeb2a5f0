"""Names of the classes that a file tells apart, written into its metadata for who serves it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import UsageError
from .wording import quote, reason

LABELS_KEY = "kbn.labels"  # a JSON list, one name per class


def read_labels(path: Path) -> list[str]:
    """The names in a text file, one a line, without the spaces around them.

    Raises:
        UsageError: the file cannot be read as UTF-8, has none, or has an empty line between two names.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"The file of labels {quote(str(path))} cannot be read: {reason(error)}.") from error
    labels = [line.strip() for line in lines]
    if not labels:
        raise UsageError(f"The file of labels {quote(str(path))} is empty. Write the name of a class on each line.")
    if "" in labels:
        raise UsageError(
            f"Line {labels.index('') + 1} of the file of labels {quote(str(path))} is empty. A class without a name needs some "
            "text, or those after it would get each other's."
        )
    return labels


def has_classes(shape: Sequence[int], dtype: Any, labels: Sequence[str]) -> bool:
    """Whether an output has one number per example and class: as many classes as there are labels, or else two or more.

    dtype: numpy's.
    """
    return len(shape) == 2 and dtype.kind == "f" and (shape[1] == len(labels) if labels else shape[1] >= 2)


def labels_entry(labels: Sequence[str], outputs: Sequence[tuple[int | str | None, ...]]) -> dict[str, str]:
    """The entry for the metadata of a file with outputs of these shapes.

    Raises:
        UsageError: no output is (examples, classes) with as many classes as there are labels.
    """
    classes = [shape[1] for shape in outputs if len(shape) == 2 and isinstance(shape[1], int)]
    if len(labels) not in classes:
        has = f"{' and '.join(map(str, classes))} classes" if classes else "no output of (examples, classes)"
        raise UsageError(f"There are {len(labels)} labels, but the model has {has}. Give as many as it has classes.")
    return {LABELS_KEY: json.dumps(list(labels), ensure_ascii=False)}
