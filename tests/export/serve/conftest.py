"""The cluster that a file's tests of the Ray engine share: it takes long to start, and its processes are never idle."""

from collections.abc import Iterator

import pytest

from ray_nodes import Nodes, nodes


@pytest.fixture(scope="module")
def ray_nodes() -> Iterator[Nodes]:
    """Two nodes on this machine, with Ray Serve."""
    pytest.importorskip("ray", reason="ray is not installed; pip install 'kbn[ray]' does it")
    with nodes() as found:
        yield found
