"""A Ray cluster of two nodes on this machine, for tests: run as a script it lives until its standard input ends.

It prints its address once it is there. Ray Serve runs in it already, on its first node: on one machine both nodes cannot
listen on the same port.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MARK = "KBN_TEST_CLUSTER"


@dataclass(frozen=True)
class Nodes:
    """What a test needs of the cluster.

    Attributes:
        address: what `--address` takes.
        port: where Ray Serve listens.
    """

    address: str
    port: int
    mark: str

    def options(self, replicas: int) -> list[object]:
        """Of `kbn serve`, to join it, less the port."""
        return ["--engine", "ray", "--address", self.address, "--replicas", replicas]

    def replicas(self) -> list[int]:
        """The processes that are replicas of this cluster."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_replica = (path / "cmdline").read_bytes().startswith(b"ray::ServeReplica:kbn")
                if is_replica and f"{_MARK}={self.mark}\0".encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
        return found


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    """The cluster in a process of its own, ended behind the block."""
    port, *others = _free_ports(4)
    # Sockets have short paths only, shorter than those of pytest's folders.
    with tempfile.TemporaryDirectory(prefix="kbn-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        variables = {
            _MARK: folder,
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
            "RAY_SERVE_HAPROXY_STATS_PORT": str(others[0]),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(others[1]),
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
            "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        }
        complaints = Path(folder, "stderr")
        with complaints.open("w") as stderr:
            script = subprocess.Popen(
                [sys.executable, __file__, str(port)],
                env={**os.environ, **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert script.stdin is not None
        assert script.stdout is not None
        try:
            address = next((line.split()[1] for line in script.stdout if line.startswith("address ")), None)
            if address is None:
                raise AssertionError(f"The cluster has not started:\n{complaints.read_text()[-5000:]}")
            yield Nodes(address, port, folder)
        finally:
            with contextlib.suppress(BrokenPipeError):
                script.stdin.close()
            try:
                script.wait(60)
            finally:
                script.kill()
                script.wait(30)
                script.stdout.close()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def main() -> None:
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    try:
        ray.init(cluster.address, log_to_driver=False)
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
        print("address", cluster.address, flush=True)
        sys.stdin.read()
        serve.shutdown()
        ray.shutdown()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
