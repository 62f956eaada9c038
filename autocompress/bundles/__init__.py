"""Bundles: exported models with all that is needed to use and to check them."""

from __future__ import annotations

from autocompress.bundles.inference import Bundle, load
from autocompress.bundles.manifest import Complexity, Manifest, Metrics, Preprocessing, Provenance, read_manifest
from autocompress.bundles.provenance import collect_provenance
from autocompress.bundles.verify import Check, VerifyReport, verify_bundle
from autocompress.bundles.write import ModelFile, bundle_name, write_bundle

__all__ = [
    "Bundle",
    "Check",
    "Complexity",
    "Manifest",
    "Metrics",
    "ModelFile",
    "Preprocessing",
    "Provenance",
    "VerifyReport",
    "bundle_name",
    "collect_provenance",
    "load",
    "read_manifest",
    "verify_bundle",
    "write_bundle",
]
