"""kbn.diagnostics: what batch normalization does while a model trains, and what is wrong with it.

    ShiftMonitor(probe)    a callback: how the distributions in a model move while it trains
    audit(model, data)     each layer's mode, averages and noise against the data, with what is wrong and what to do

Each name is loaded when it is first used (PEP 562), so that importing this package imports neither Keras nor matplotlib. No
module here has the name of a public function.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbn.diagnostics.audit_report import AuditReport
    from kbn.diagnostics.auditing import audit
    from kbn.diagnostics.findings import Finding
    from kbn.diagnostics.monitor import ShiftMonitor
    from kbn.diagnostics.record import ShiftRecord

_HOME = {
    "AuditReport": "kbn.diagnostics.audit_report",
    "Finding": "kbn.diagnostics.findings",
    "ShiftMonitor": "kbn.diagnostics.monitor",
    "ShiftRecord": "kbn.diagnostics.record",
    "audit": "kbn.diagnostics.auditing",
}

__all__ = ["AuditReport", "Finding", "ShiftMonitor", "ShiftRecord", "audit"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kbn.diagnostics' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
