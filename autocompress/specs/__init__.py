"""The declarative library: typed schemas of the YAML files, and where they are looked up."""

from autocompress.specs.durations import format_duration, parse_duration, parse_size
from autocompress.specs.library import SpecEntry, find_spec, list_specs, load_spec, load_study
from autocompress.specs.schemas import (
    Budget,
    ConfirmSpec,
    Constraints,
    EngineSpec,
    HardwareProfile,
    HostSpec,
    Objective,
    ParentSpec,
    PruningAxis,
    SamplerSpec,
    SearchSpace,
    StudySpec,
    TrainingSpec,
)

__all__ = [
    "Budget",
    "ConfirmSpec",
    "Constraints",
    "EngineSpec",
    "HardwareProfile",
    "HostSpec",
    "Objective",
    "ParentSpec",
    "PruningAxis",
    "SamplerSpec",
    "SearchSpace",
    "SpecEntry",
    "StudySpec",
    "TrainingSpec",
    "find_spec",
    "format_duration",
    "list_specs",
    "load_spec",
    "load_study",
    "parse_duration",
    "parse_size",
]
