"""The audit of a model on data from files: the arrays fitted to the model's inputs, then kbn.diagnostics."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kbn.diagnostics import audit as audit_model

from .audit_report import AuditPage
from .errors import UnsupportedError
from .model_ports import pack_inputs, with_inputs
from .samples import user_samples
from .wording import reason


def audit(
    model: keras.Model, data: Any, *, batch_size: int | None = None, steps: int | None = None, seed: int = 0
) -> AuditPage:
    """What `kbn.diagnostics.audit` finds on data as `kbn.export.check` takes it: arrays by input, or a folder of images.

    Raises:
        UsageError: the data does not fit the inputs.
        UnsupportedError: the model was never built, or hides a layer inside a compiled function.
    """
    functional = with_inputs(model)
    samples = [sample.arrays for sample in user_samples(functional, data)]
    arrays = [np.concatenate(parts) for parts in zip(*samples, strict=True)]
    try:
        found = audit_model(functional, pack_inputs(functional, arrays), batch_size=batch_size, steps=steps, seed=seed)
    except ValueError as error:
        raise UnsupportedError(f"The model {model.name!r} cannot be audited: {reason(error)}.") from error
    return AuditPage(found)
