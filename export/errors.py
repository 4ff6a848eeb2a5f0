"""The errors of kbn.export. This module imports nothing.

    KbnError                 the root; never raised itself
    ├── CheckFailedError     exit code 1   the ONNX file does not compute what the model computes
    ├── UsageError           exit code 2   an argument is wrong: a path, a shape, a missing --force
    ├── UnsupportedError     exit code 3   a sound model that kbn cannot fold or convert
    ├── BrokenModelError     exit code 4   a file that cannot be read, weights that are not finite
    └── UnsafeModelError     exit code 4   a file that would run code or read other files when opened

Each message is one paragraph that says what was found, where, and what to do. The command line prints the message and
exits with `exit_code`; no traceback reaches a user for an error of this tree.
"""


class KbnError(Exception):
    """Root of the errors that kbn raises on purpose."""

    exit_code: int = 3


class CheckFailedError(KbnError):
    """The exported file departs from the model by more than rounding explains; `report` says where."""

    exit_code = 1

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report


class UsageError(KbnError):
    """An argument does not fit what it is used for."""

    exit_code = 2


class UnsupportedError(KbnError):
    """The model is sound, but kbn has no exact way to do what was asked."""

    exit_code = 3


class BrokenModelError(KbnError):
    """The model file cannot be read, or holds values no trained model has."""

    exit_code = 4


class UnsafeModelError(KbnError):
    """Opening the model file would run code or read files that it names."""

    exit_code = 4
