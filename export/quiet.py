"""Importing TensorFlow without the lines that its C++ code writes to stderr before any setting can silence it."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


def import_quietly(*modules: str) -> None:
    """Imports these modules; what they write to stderr meanwhile is shown only if one of them fails to import.

    Raises:
        ImportError: a module is missing.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _withheld_stderr():
        for module in modules:
            import_module(module)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)


@contextmanager
def _withheld_stderr() -> Iterator[None]:
    """File descriptor 2 into a temporary file; its content follows to stderr after an exception."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as withheld:
        os.dup2(withheld.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            os.dup2(kept, 2)
            withheld.seek(0)
            os.write(2, withheld.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
