"""Model families: U-shaped networks that can be built for any compression configuration they declare."""

from autocompress.models.registry import (
    EXPORT_FORMS,
    ExportForm,
    FeatureStage,
    ModelFamily,
    build,
    get_family,
    list_families,
    register_family,
)

__all__ = [
    "EXPORT_FORMS",
    "ExportForm",
    "FeatureStage",
    "ModelFamily",
    "build",
    "get_family",
    "list_families",
    "register_family",
]
