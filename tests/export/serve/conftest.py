"""The cluster that tests of the Ray engine share: it takes long to start."""

from collections.abc import Iterator

import pytest

from ray_nodes import Nodes, nodes


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[Nodes]:
    """Two nodes on this machine, with Ray Serve."""
    pytest.importorskip("ray", reason="ray is not installed; pip install 'kbn[ray]' does it")
    with nodes() as found:
        yield found
