"""Names that are told apart by a number."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def unique(names: Iterable[str], taken: Collection[str] = ()) -> list[str]:
    """The names, with _1, _2, ... behind those that were there before."""
    seen, result = set(taken), []
    for name in names:
        candidate, number = name, 0
        while candidate in seen:
            number += 1
            candidate = f"{name}_{number}"
        seen.add(candidate)
        result.append(candidate)
    return result
