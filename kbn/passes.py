"""The data of a pass over a model, whatever it comes as."""

import functools
import itertools
import operator
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import array_data_adapter, data_adapter, data_adapter_utils


def passes(data: Any, steps: int | None, batch_size: int | None) -> tuple[Any, int | None]:
    """A function that starts a pass over the inputs of each batch, and their number, None where it is unknown."""
    is_dataset, is_indexed = data_adapters.is_tf_dataset(data), isinstance(data, keras.utils.PyDataset)
    is_arrays = array_data_adapter.can_convert_arrays((data, None, None))
    if is_arrays and all(part is None for part in keras.tree.flatten(data)):
        raise ValueError(f"Argument `data` must hold a batch. Received: data={data!r}")
    if is_arrays or is_dataset or is_indexed or data_adapters.is_grain_dataset(data) or not isinstance(data, Iterable):
        adapter = data_adapters.get_data_adapter(data, batch_size=batch_size)
        start, length = adapter.get_numpy_iterator, adapter.num_batches
    else:
        # Keras' adapter for generators refuses bare arrays, and the one for torch takes their rows for x, y and weights.
        adapter, length = data_adapter.DataAdapter(), operator.length_hint(data) or None
        start = functools.partial(data_adapter_utils.get_numpy_iterator, data)
    # tf.data counts -1 where there is no end, and -2 where it does not know.
    if steps is None and ((is_dataset and data.cardinality() == -1) or (is_indexed and length is None)):
        raise ValueError("Argument `steps` must be given where the data has no end. Received: steps=None")

    def one_pass() -> Iterator[Any]:
        adapter.on_epoch_begin()
        try:
            for batch in itertools.islice(start(), steps):
                yield keras.utils.unpack_x_y_sample_weight(batch)[0]
        finally:
            adapter.on_epoch_end()

    return one_pass, min((each for each in (steps, length) if each is not None), default=None)
