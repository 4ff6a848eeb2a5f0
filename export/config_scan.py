"""A model's configuration, checked before Keras builds objects from it.

A Keras configuration is JSON in which every object has a `class_name`, and since Keras 3 a `module`. An object may be
one of Keras' own modeling classes or functions, or one that the caller registered; nothing else is let through,
whatever Keras would do with it. Refused as unsafe: objects that run code kept in the file or load another file (Lambda,
TFSMLayer, TorchModuleWrapper; CVE-2024-3660, CVE-2025-9905, CVE-2026-1462), modules outside Keras' modeling ones
(CVE-2025-1550, CVE-2025-8747, CVE-2025-9906), and paths and URLs that Keras would open (CVE-2025-12058).
"""

import builtins
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from .errors import BrokenModelError, KbnError, UnsafeModelError, UnsupportedError
from .wording import one_line, quote

# Objects that run what the file holds or names. `allow_unsafe` lifts the refusal of these, and of nothing else.
RUNS_CODE = {
    "__lambda__": "Python bytecode",
    "Lambda": "a layer of Python bytecode or of an arbitrary function",
    "TFSMLayer": "a layer that runs another TensorFlow program from a path",
    "TorchModuleWrapper": "a pickled PyTorch module",
}

# Values rather than classes: decoded by Keras itself, with no look-up.
_VALUES = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__tuple__"}
_VALUES |= {"TensorShape"}

# The modules of Keras whose classes and functions make up models. keras.utils, keras.saving, keras.config,
# keras.callbacks and the like are not among them.
_OBJECTS = ("layers", "models", "initializers", "regularizers", "constraints", "dtype_policies", "quantizers")
_COMPUTING = ("losses", "metrics", "optimizers", "ops", "random")
_CLASS_MODULES = _OBJECTS + _COMPUTING
_FUNCTION_MODULES = ("activations", *_COMPUTING)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read_json(source: str, text: bytes | str) -> dict[str, Any]:
    """The configuration of one model. Raises BrokenModelError where `text` is no JSON object that describes one."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenModelError(
            f"{source}: the model's configuration is not readable JSON ({one_line(str(error))}). Save the model again."
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str) or "config" not in config:
        raise BrokenModelError(
            f"{source}: the configuration is JSON, but describes no Keras model (no class_name and config at its top). "
            f"Give a file written by model.save()."
        )
    return config


def check_config(
    source: str, config: dict[str, Any], *, custom_objects: Mapping[str, Any] | None = None, allow_unsafe: bool = False
) -> None:
    """Raise for the first object of a model's configuration that must not, or cannot, be built.

    UnsafeModelError comes first wherever it stands; UnsupportedError names a class or function that neither this Keras
    has nor anybody registered. What a model was compiled with is not looked at: it is never loaded.
    """
    # Only the outermost: Keras builds the optimizer and losses of a compiled model inside a model.
    uncompiled = {key: value for key, value in config.items() if key != "compile_config"}
    refusals = []
    for item, owner in _walk(uncompiled):
        refusal = _opened_value(item, owner) or _object_refusal(item, owner, custom_objects, allow_unsafe)
        if refusal is not None:
            refusals.append(refusal)
    refusals.sort(key=lambda refusal: not isinstance(refusal, UnsafeModelError))  # stable: the first of each kind
    if refusals:
        raise type(refusals[0])(f"{source}: {refusals[0]}")


def _walk(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every JSON object, outermost first, with the layer it belongs to. No recursion: depth is the file's choice."""
    stack: list[tuple[Any, str]] = [(config, "the model")]
    while stack:
        value, owner = stack.pop()
        if isinstance(value, dict):
            owner = owner if value is config else _label(value) or owner
            yield value, owner
            stack.extend((child, owner) for child in reversed(value.values()))
        elif isinstance(value, list):
            stack.extend((child, owner) for child in reversed(value))


def _label(item: dict[str, Any]) -> str | None:
    inner = item.get("config")
    # Policies, losses and metrics have names too; only layers and models can be trainable.
    if "class_name" not in item or not isinstance(inner, dict) or not {"trainable", "layers"} & inner.keys():
        return None
    return f"layer {quote(inner['name'])}" if isinstance(inner.get("name"), str) else None


def _opened_value(item: dict[str, Any], owner: str) -> KbnError | None:
    """A string that Keras would open. Single strings are options; lists are data: a vocabulary may contain URLs."""
    for key, value in item.items():
        if not isinstance(value, str):
            continue
        if key == "vocabulary":
            return UnsafeModelError(
                f"{owner} takes its vocabulary from the file {quote(value)} on the machine that opens the model. Keras "
                f"keeps a vocabulary inside the .keras file: save the model again with Keras 3."
            )
        if _URL.match(value):
            return UnsafeModelError(
                f"{owner} has the address {quote(value)} as its {quote(key)}; opening the model could fetch it. Save a model "
                f"whose configuration holds no addresses."
            )
    return None


def _object_refusal(
    item: dict[str, Any], owner: str, custom_objects: Mapping[str, Any] | None, allow_unsafe: bool
) -> KbnError | None:
    """Why the object that `item` describes is not built, or None."""
    if "class_name" not in item:
        return None
    class_name, module = item["class_name"], item.get("module")
    is_function = class_name == "function"
    name = item.get("config") if is_function else class_name
    if not isinstance(name, str) or not isinstance(module, str | None):
        return BrokenModelError(f"{owner} has a class_name, module or function name that is no text. Save it again.")
    if name in RUNS_CODE:
        return None if allow_unsafe else _runs_code(name, owner)
    if not is_function and name in _VALUES:
        return None
    registered_name = item.get("registered_name")
    if _is_registered(name if is_function or not isinstance(registered_name, str) else registered_name, custom_objects):
        return None
    # Keras joins module and name with a dot and looks the result up, so that a dot in the name would reach any module.
    if not name.isidentifier() or not all(part.isidentifier() for part in (module or "keras").split(".")):
        return _outside(name, module, owner)
    return _unregistered_refusal(name, module, is_function, owner, registered_name)


def _unregistered_refusal(
    name: str, module: str | None, is_function: bool, owner: str, registered_name: object
) -> KbnError | None:
    if _is_modeling(name, module, is_function):
        return None
    top, _, rest = (module or "").partition(".")
    elsewhere_in_keras = top == "keras" and rest.removeprefix("src.").split(".")[0] not in _CLASS_MODULES
    if (
        (module == "builtins" and hasattr(builtins, name))
        or (top in sys.stdlib_module_names and top not in ("__main__", "builtins"))
        or (elsewhere_in_keras and rest and _exists(module or ""))
    ):
        return _outside(name, module, owner)
    return _unknown(name, module, is_function, owner, registered_name)


def _is_modeling(name: str, module: str | None, is_function: bool) -> bool:
    """Whether this Keras has a modeling class, or function, of that name in that module."""
    if module is None:
        # Files of Keras 2 name no modules; Keras finds their classes by name alone.
        return not is_function and name in _class_names()
    if module == "builtins":
        # What Keras writes for its own functions, such as relu.
        return is_function and any(_has(f"keras.{part}", name, True) for part in _FUNCTION_MODULES)
    if module == "keras":
        return not is_function and _has(module, name, False)
    modules = _FUNCTION_MODULES if is_function else _CLASS_MODULES
    top, *parts = module.split(".")
    part = next(iter(parts[1:] if parts[:1] == ["src"] else parts), None)
    # Keras' own test files lie among its modules; importing one needs what an installation lacks.
    return top == "keras" and part in modules and not module.endswith("_test") and _has(module, name, is_function)


def _is_registered(name: str, custom_objects: Mapping[str, Any] | None) -> bool:
    import keras

    return keras.saving.get_registered_object(name, custom_objects=custom_objects) is not None


@cache
def _class_names() -> frozenset[str]:
    """Keras' own modeling classes, by every public name."""
    modules = [importlib.import_module(f"keras.{part}") for part in _CLASS_MODULES]
    names = {name for module in modules for name in dir(module) if isinstance(getattr(module, name), type)}
    return frozenset(names | {"Functional"})


def _has(module: str, name: str, is_function: bool) -> bool:
    if not _exists(module):
        return False
    found = getattr(importlib.import_module(module), name, None)
    return callable(found) and isinstance(found, type) != is_function


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _runs_code(name: str, owner: str) -> KbnError:
    return UnsafeModelError(
        f"{owner} is or holds {name}, {RUNS_CODE[name]}: opening the model could run code that its author chose. "
        f"Replace it by Keras layers, keras.ops or a registered layer and save again; or, if you trust whoever made "
        f"this file, say so with allow_unsafe (--allow-unsafe)."
    )


def _outside(name: str, module: str | None, owner: str) -> KbnError:
    return UnsafeModelError(
        f"{owner} names {quote(name)} of module {quote(module)}, which is no part of any model: opening it could run that. Do "
        f"not open this file unless you know who made it; a model saved by Keras holds no such name."
    )


def _unknown(name: str, module: str | None, is_function: bool, owner: str, registered_name: object) -> KbnError:
    import keras

    kind = "function" if is_function else "class"
    key = registered_name if isinstance(registered_name, str) and not is_function else name
    home = quote(module) if module else "not given"
    return UnsupportedError(
        f"{owner} is or uses the {kind} {quote(name)} (module {home}), which is neither in Keras "
        f"{keras.__version__} nor registered here. If it is your own, import the module that registers it with "
        f"@keras.saving.register_keras_serializable(), or give it as custom_objects={{{quote(key)}: ...}} "
        f"(--custom-objects FILE.py); if it is from "
        f"another version of Keras, save the model again with this one."
    )
