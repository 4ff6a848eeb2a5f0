"""Faults planted in right files are found, each kind, and no right file is rejected."""

import numpy as np
import pytest
from mutants import FAULTS, mutants, network

from kbn.export import export


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_every_fault_is_found_and_no_right_file_rejected(tmp_path, seed):
    model, path = network(seed), tmp_path / "model.onnx"
    export(model, path)
    found = {}
    for fault, (_, rejected, _) in mutants(model, path, np.random.default_rng(100 + seed), each=1):
        found[fault] = rejected
    assert found == {None: False, **dict.fromkeys(FAULTS, True)}
