"""HAProxy is told to stop listening before the application is deleted; the test of a whole cluster is in test_ray.py."""

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

NODE = "node"


@pytest.fixture
def haproxy(monkeypatch):
    """The module, and the path of an admin socket; such paths are short."""
    pytest.importorskip("ray")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="kbn-", dir="/tmp") as folder:
        warnings.simplefilter("ignore")
        from kbn.export.serve import ray_haproxy

        context = SimpleNamespace(get_node_id=lambda: NODE)
        monkeypatch.setattr(ray_haproxy, "ray", SimpleNamespace(get_runtime_context=lambda: context))
        monkeypatch.setenv("RAY_SERVE_HAPROXY_SOCKET_PATH", f"{folder}/admin.sock")
        (Path(folder) / NODE).mkdir()
        yield SimpleNamespace(
            module=ray_haproxy, stop_listening=ray_haproxy.stop_listening, path=Path(folder) / NODE / "admin.sock"
        )


@contextlib.contextmanager
def admin_socket(path, answer):
    """Answers one connection."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def talk():
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b"show info\n"
                connection.sendall(answer)

        thread = threading.Thread(target=talk)
        thread.start()
        yield
        thread.join(30)


def test_the_process_of_the_admin_socket_gets_the_signal_of_a_soft_stop(haproxy):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        with admin_socket(haproxy.path, b"Name: HAProxy\nPid: %d\nMaxconn: 1\n" % process.pid):
            haproxy.stop_listening()
        assert process.wait(30) == -signal.SIGUSR1


def test_without_haproxy_nothing_is_killed_and_the_end_goes_on(haproxy, monkeypatch):
    killed, logged = [], []
    monkeypatch.setattr(haproxy.module.os, "kill", lambda *arguments: killed.append(arguments))
    monkeypatch.setattr(haproxy.module, "log", lambda event, level, reason: logged.append((event, level, reason)))
    haproxy.stop_listening()
    with admin_socket(haproxy.path, b"Permission denied\n"):
        haproxy.stop_listening()
    assert killed == []
    assert [(event, level) for event, level, _ in logged] == [("proxy", "debug")] * 2
    assert "does not tell the process" in logged[1][2]
