"""What may stand in an HDF5 file of weights: plain arrays, each stored once, in this file.

HDF5 can point elsewhere (external links, external storage, virtual datasets), name one object twice or in a cycle (soft
and hard links), and declare arrays that it does not hold (fill values, compression). Keras writes none of these; a file
that has one reads other files or fills the memory when it is opened (CVE-2026-0897, CVE-2026-1669). Messages here
name the object; whoever opened the file adds its path.

h5py crashes and hangs on damaged files, so this runs in a process of its own: see hdf5_process.py.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import BrokenModelError, UnsafeModelError
from .wording import quote

if TYPE_CHECKING:
    import h5py

# Numbers, booleans, and the opaque types in which bfloat16 (2 bytes) and float8 (1 byte) are kept.
_NUMERIC_KINDS = "biufc"
_OPAQUE_BYTES = (1, 2)

_LINKS = {
    "ExternalLink": "a link into another file",
    "SoftLink": "a soft link",
}


@dataclass(frozen=True)
class Contents:
    """What a checked HDF5 file holds.

    elements: numbers stored in all of its arrays together.
    model_config: the attribute in which a whole model's JSON is kept, or None.
    names: the groups and arrays at the root.
    """

    elements: int
    model_config: str | None
    names: tuple[str, ...]


def scan(file: "h5py.File", size: int) -> Contents:
    """Walk every object and attribute of an open HDF5 file of `size` bytes.

    Raises UnsafeModelError for what reaches outside the file or is larger than it, BrokenModelError for what is no
    array of numbers. An error of the HDF5 library (OSError, RuntimeError, ...) passes through.
    """
    import h5py

    elements = 0
    seen = {_address(file)}
    _read_attributes(file)
    groups = [file]
    while groups:
        group = groups.pop()
        for key in group:
            name = quote(f"{group.name.rstrip('/')}/{key}")
            link = type(group.get(key, getlink=True)).__name__
            if link != "HardLink":
                raise UnsafeModelError(
                    f"its object {name} is {_LINKS.get(link, link)}; opening the model would follow it. Keras writes "
                    f"no links: ask whoever made the file for one saved by model.save()"
                )
            item = group[key]
            if _address(item) in seen:
                raise UnsafeModelError(
                    f"its object {name} is a second name of an object that was named before. Keras writes each object "
                    f"once: ask whoever made the file for one saved by model.save()"
                )
            seen.add(_address(item))
            _read_attributes(item)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                _check_dataset(item, name, size)
                elements += math.prod(item.shape)
            else:
                raise BrokenModelError(f"its object {name} is neither a group nor an array of weights")
    return Contents(elements, _text(file.attrs.get("model_config")), tuple(file))


def _address(item: Any) -> int:
    import h5py

    return int(h5py.h5o.get_info(item.id).addr)


def _read_attributes(item: Any) -> None:
    # Reading is the check: damaged text in an attribute is what crashes the library most often.
    for key in item.attrs:
        item.attrs[key]


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8")
    raise BrokenModelError(f"its attribute model_config is {type(value).__name__}, not text")


def _check_dataset(dataset: "h5py.Dataset", name: str, size: int) -> None:
    import h5py

    if dataset.external:
        raise UnsafeModelError(
            f"its array {name} is stored in another file ({quote(dataset.external[0][0])}), which opening the model would "
            f"read. Keras stores weights in the file itself: ask whoever made the file for one saved by model.save()"
        )
    if dataset.is_virtual:
        raise UnsafeModelError(
            f"its array {name} is a virtual dataset, a view of other files that opening the model would read. Keras "
            f"stores weights in the file itself: ask whoever made the file for one saved by model.save()"
        )
    if dataset.id.get_create_plist().get_nfilters():
        raise UnsafeModelError(
            f"its array {name} is compressed, so its size in memory cannot be bounded. Keras stores plain arrays: "
            f"repack the file without compression (h5repack -f NONE) if you trust its source"
        )
    dtype = dataset.dtype
    plain = dtype.kind in _NUMERIC_KINDS or (
        dtype.kind == "V" and dtype.fields is None and dtype.itemsize in _OPAQUE_BYTES
    )
    # A type that numpy has no exact counterpart for goes through HDF5's conversions, which Keras' files never need.
    if dataset.shape is None or not plain or dataset.id.get_type() != h5py.h5t.py_create(dtype, logical=True):
        raise BrokenModelError(f"its array {name} does not hold plain numbers but {quote(dtype)}")
    declared = math.prod(dataset.shape) * dtype.itemsize
    stored = dataset.id.get_storage_size()
    if declared > min(stored, size):
        raise UnsafeModelError(
            f"its array {name} claims shape {quote(dataset.shape)}, {declared} bytes, of which the file stores "
            f"{min(stored, size)}; reading it would fill memory with what is not there. Save the model again"
        )
