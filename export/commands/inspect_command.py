"""`kbn inspect MODEL`"""

from __future__ import annotations

from .options import AllowUnsafe, AnyModel, CustomObjects, Json, OnesChannel, Quiet, ReportFile
from .running import check_outputs, import_keras, load_any, progress, show


def inspect(
    model: AnyModel,
    ones_channel: OnesChannel = True,
    custom_objects: CustomObjects = None,
    allow_unsafe: AllowUnsafe = False,
    as_json: Json = False,
    report_file: ReportFile = None,
    quiet: Quiet = False,
) -> None:
    """Show what is there and how each batch normalization would fold."""
    with progress(quiet) as step:
        check_outputs(report_file=report_file)
        import_keras(step)
        from ..any_model import inspect as inspect_model

        loaded = load_any(model, custom_objects, allow_unsafe, step)
        report = inspect_model(loaded, ones_channel=ones_channel)
    show(report, as_json, report_file)
