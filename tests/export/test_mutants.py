"""Faults planted in right files are found, each kind, and no right file is rejected."""

import numpy as np
import pytest
from mutants import FAULTS, border, kernel_unit, mutants, network, swapped_channels, wrong_axis

from kbn.export import export


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_every_fault_is_found_and_no_right_file_rejected(tmp_path, seed):
    model, path = network(seed), tmp_path / "model.onnx"
    export(model, path)
    found = dict(mutants(model, path, np.random.default_rng(100 + seed), each=1))
    assert {fault: verdict["any"] for fault, verdict in found.items()} == {None: False, **dict.fromkeys(FAULTS, True)}
    # Each way of looking finds what it is for.
    assert all(found[fault]["own errors"] for fault in (swapped_channels, wrong_axis, border))
    assert found[kernel_unit]["weights"]
    assert not found[kernel_unit]["outputs"]
