"""Options whose value is more than a word: NAME=1,224,224,3 and OLD=NEW."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UsageError


def parse_shapes(values: Sequence[str] | None) -> dict[str, tuple[int | None, ...]] | None:
    """By input name the sizes, None where free, of values such as `image=?,224,224,3`.

    Raises:
        UsageError: a value has another form.
    """
    found: dict[str, tuple[int | None, ...]] = {}
    for value in values or ():
        name, equals, sizes = value.rpartition("=")
        words = [word.strip() for word in sizes.split(",")]
        if not equals or not name or not all(word == "?" or (word.isascii() and word.isdigit()) for word in words):
            raise UsageError(
                f"The input shape {value!r} is not of the form NAME=SIZE,SIZE,...; a size is a number, or ? where it is free: "
                "image=?,224,224,3."
            )
        found[name] = tuple(None if word == "?" else int(word) for word in words)
    return found or None


def parse_names(values: Sequence[str] | None) -> dict[str, str] | None:
    """By old name the new one, of values such as `input_1=image`.

    Raises:
        UsageError: a value has another form.
    """
    pairs = [value.partition("=") for value in values or ()]
    for value, (old, _, new) in zip(values or (), pairs, strict=True):
        if not old or not new:
            raise UsageError(f"The renaming {value!r} is not of the form OLD=NEW: input_1=image.")
    return {old: new for old, _, new in pairs} or None
