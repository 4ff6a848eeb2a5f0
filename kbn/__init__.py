"""kbn: batch normalization for Keras 3, from training to production.

Importing kbn imports neither Keras nor TensorFlow: each public name is loaded when it is first used (PEP 562). The
layer is registered with Keras as soon as Keras is imported, whichever of the two comes first, so that a `.keras` file
that holds it loads without `custom_objects`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import wrapt

from kbn._version import __version__

if TYPE_CHECKING:
    from kbn.batch_normalization import BatchNormalization
    from kbn.conversion import convert_model
    from kbn.recalibration import recalibrate

__all__ = ["BatchNormalization", "__version__", "convert_model", "recalibrate"]

_HOME = {
    "BatchNormalization": "kbn.batch_normalization",
    "convert_model": "kbn.conversion",
    "recalibrate": "kbn.recalibration",
}
_PACKAGES = ("diagnostics", "export")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _PACKAGES:
        value = import_module(f"kbn.{name}")
    else:
        raise AttributeError(
            f"module 'kbn' has no attribute {name!r}; it has {', '.join(sorted([*__all__, *_PACKAGES]))}"
        )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])


@wrapt.when_imported("keras")
def _register_layer(_keras: Any) -> None:
    # Keras deserialises only classes that are registered: it never imports a module that a file names.
    import_module("kbn.batch_normalization")
