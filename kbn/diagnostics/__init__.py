"""kbn.diagnostics: what batch normalization does while a model trains.

Importing it imports neither Keras nor matplotlib: each public name is loaded when it is first used (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbn.diagnostics.monitor import ShiftMonitor
    from kbn.diagnostics.record import ShiftRecord

__all__ = ["ShiftMonitor", "ShiftRecord"]

_HOME = {
    "ShiftMonitor": "kbn.diagnostics.monitor",
    "ShiftRecord": "kbn.diagnostics.record",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kbn.diagnostics' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
