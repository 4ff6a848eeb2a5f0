"""kbn.diagnostics: what the batch normalizations of a model are doing, told in plain words.

    audit(model, data)     each layer's mode, averages and noise against the data, with what is wrong and what to do

Each name is loaded when it is first used (PEP 562), so that importing this package imports no Keras. No module here has the
name of a public function.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbn.diagnostics.audit_report import AuditReport
    from kbn.diagnostics.auditing import audit
    from kbn.diagnostics.findings import Finding

_HOME = {
    "AuditReport": "kbn.diagnostics.audit_report",
    "Finding": "kbn.diagnostics.findings",
    "audit": "kbn.diagnostics.auditing",
}

__all__ = ["AuditReport", "Finding", "audit"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kbn.diagnostics' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
