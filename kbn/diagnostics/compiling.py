"""A function of the model, compiled as the backend compiles: op by op it would take several times as long.

On TensorFlow the graph reads the model's variables where they are. On JAX they are arguments, since a training step deletes
the arrays that it starts from. PyTorch runs op by op, without gradients.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import keras


def compiled(function: Callable[[Any], Any], model: Any) -> Callable[[Any], Any]:
    """`function`, from a batch to tensors, which reads variables of the model and writes none; traced on the first call."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return import_module("tensorflow").function(function, autograph=False)
    if backend == "torch":

        def without_gradients(batch: Any) -> Any:
            with import_module("torch").no_grad():
                return function(batch)

        return without_gradients
    if backend != "jax":
        return function

    def of_values(values: list[Any], batch: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
            return function(batch)

    jitted = import_module("jax").jit(of_values)

    def of_model(batch: Any) -> Any:
        if hasattr(model, "jax_state_sync"):  # in `fit`, the values are the trainer's own
            model.jax_state_sync()
        return jitted([variable.value for variable in model.variables], batch)

    return of_model
