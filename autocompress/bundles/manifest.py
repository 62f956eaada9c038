"""What a bundle says about itself: ``manifest.json`` as a typed, frozen value.

The schema has a version. A reader takes exactly the versions it knows and refuses every other one in a line that
names both, so that a field is never misread.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator, model_validator

from autocompress.config import CompressionConfig
from autocompress.errors import BundleError, ConfigError
from autocompress.hardware.records import Measurement

SCHEMA = "autocompress-bundle/1"

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
DEPLOYABLE_FILE = "model-deployable.onnx"
WEIGHTS_FILE = "weights.safetensors"
SAMPLE_FILE = "sample.safetensors"
RECIPE_FILE = "recipe.yaml"
README_FILE = "README.md"

# Neural Magic DeepSparse Community License, as shipped in the DeepSparse wheel.
EVALUATION_ONLY = {
    "deepsparse": (
        "DeepSparse is licensed for evaluation in development and testing only (Neural Magic DeepSparse Community "
        "License); deploy the bundle's file for another engine instead."
    )
}

Percent = Annotated[FiniteFloat, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]
Hex256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Preprocessing(_Frozen):
    """How an image becomes network input and the network's output becomes a label map.

    Attributes:
        value_range: smallest and largest intensity of the network input; integer images are divided by the largest
            value of their type.
        window: intensities of the original images, such as Hounsfield units, that were mapped onto ``value_range``
            when the data set was prepared; None where it is not known or not needed.
        input_name, input_layout: name and axes of the model's input.
        output_name, output_layout: name and axes of the model's output.
        resize, postprocess: what happens before and after the network, for people.
    """

    value_range: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)
    window: tuple[FiniteFloat, FiniteFloat] | None = None
    input_name: str = "input"
    input_layout: str = "1 x channels x resolution x resolution, float32"
    output_name: str = "logits"
    output_layout: str = "1 x classes x resolution x resolution, float32"
    resize: str = "each slice to a square: anti-aliased when it shrinks, bilinear when it grows"
    postprocess: str = "logits resized bilinearly to the slice's own size, then the class with the largest one"


class Metrics(_Frozen):
    """How well the exported file segments, run by its engine on whole volumes at their own resolution.

    Attributes:
        dice: mean Dice in percent on the validation cases, which the search has seen.
        per_class: the same for each class.
        cases: number of validation cases.
        dice_test, per_class_test, cases_test: on the test cases, which the search has not seen; None or empty where
            the model was not confirmed on them.
        hd95: mean 95th percentile Hausdorff distance on ``hd95_split``, in ``hd95_unit``; None where unknown.
        hd95_per_class: the same for each class; None where a class was never found.
        rule: how Dice is averaged, and what an absent class counts as.
    """

    dice: Percent
    per_class: dict[str, Percent] = Field(default_factory=dict)
    cases: Count
    dice_test: Percent | None = None
    per_class_test: dict[str, Percent] = Field(default_factory=dict)
    cases_test: Count | None = None
    hd95: Annotated[FiniteFloat, Field(ge=0)] | None = None
    hd95_per_class: dict[str, Annotated[FiniteFloat, Field(ge=0)] | None] = Field(default_factory=dict)
    hd95_split: Literal["validation", "test"] = "test"
    hd95_unit: Literal["mm", "voxels"] = "mm"
    rule: str


class Complexity(_Frozen):
    """Size of the network.

    Attributes:
        parameters: trainable parameters, zeros of unstructured pruning included.
        gmacs: billions of multiply-accumulate operations for one input.
        sparsity: share of zeros among the prunable weights, where the network was pruned.
    """

    parameters: Annotated[int, Field(gt=0)]
    gmacs: Annotated[FiniteFloat, Field(gt=0)]
    sparsity: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None


class Provenance(_Frozen):
    """Where the model comes from.

    Attributes:
        created: date and time in UTC, ISO 8601.
        study, trial, seed: of the search; None for a model made outside of one.
        dataset, dataset_fingerprint: name and digest of the data set that it was trained and judged on.
        packages: versions of the packages that made it.
        machine: CPU, cores, system and Python of the machine that made it.
    """

    created: str
    study: str | None = None
    trial: Count | None = None
    seed: int | None = None
    dataset: str
    dataset_fingerprint: str
    packages: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, str | int] = Field(default_factory=dict)


class Model(_Frozen):
    """One model file and what was measured with it.

    Attributes:
        file: name in the bundle.
        engine: the engine that it was made for.
        precision: number format that the engine computes in. Mostly that of the configuration; bfloat16 is computed
            from a float32 file.
        measurements: the one by ``engine`` first, then those by other engines, failures included.
        sample_output: name of its recorded output in ``sample.safetensors``.
        target: name of the hardware profile that it was made for, where the study had several; None for the manifest's.
    """

    file: str
    engine: str
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    measurements: Annotated[tuple[Measurement, ...], Field(min_length=1)]
    sample_output: str
    target: str | None = None

    @model_validator(mode="after")
    def _first_measurement_is_by_the_engine(self) -> Model:
        if self.measurements[0].engine != self.engine or not self.measurements[0].ok:
            raise ValueError(f"the first measurement must be a successful one by {self.engine}")
        return self

    @property
    def measurement(self) -> Measurement:
        """The measurement by the engine that the file was made for."""
        return self.measurements[0]

    @property
    def deployable(self) -> bool:
        """Whether the licence of the engine allows more than evaluation."""
        return self.engine not in EVALUATION_ONLY


class FileEntry(_Frozen):
    """Checksum (SHA-256) and size in bytes of one file of the bundle."""

    sha256: Hex256
    size_bytes: Count


class Manifest(_Frozen):
    """Content of ``manifest.json``.

    Attributes:
        schema_version: always `SCHEMA`; written as ``schema``.
        name: name of the bundle, for people.
        configuration: values of the compression configuration, see `config`.
        identifier: that of the configuration; it is recomputed when the manifest is read.
        family: model family.
        in_channels: channels of an image.
        classes: one name per class index; the first is the background.
        target: name of the hardware profile that the model was made for; the first one where the study had several.
        models: the model files that the study judged, one for each target; then, where none of their engines may be
            deployed, one for an engine that may.
        files: every file of the bundle except the manifest.
        licences: conditions on the use of the bundle that people have to know.
        digest: SHA-256 of everything else in the manifest. It tells damage and careless edits, not forgery.
    """

    # An alias, because pydantic's BaseModel has a method of the name `schema`.
    schema_version: Literal["autocompress-bundle/1"] = Field(default="autocompress-bundle/1", alias="schema")
    name: str
    configuration: dict[str, Any]
    identifier: str
    family: str
    in_channels: Annotated[int, Field(gt=0)]
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    preprocessing: Preprocessing = Field(default_factory=Preprocessing)
    metrics: Metrics
    target: str
    models: Annotated[tuple[Model, ...], Field(min_length=1)]
    complexity: Complexity
    size_bytes: Annotated[int, Field(gt=0)]
    provenance: Provenance
    licences: tuple[str, ...] = ()
    files: dict[str, FileEntry]
    digest: Hex256

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    @field_validator("configuration")
    @classmethod
    def _configuration_is_valid(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            return CompressionConfig.from_dict(value).to_dict()
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _parts_agree(self) -> Manifest:
        if self.identifier != self.config.identifier:
            raise ValueError(f"identifier {self.identifier} is not that of the configuration, {self.config.identifier}")
        named = {model.file for model in self.models} | {WEIGHTS_FILE, SAMPLE_FILE}
        missing = sorted(named - set(self.files))
        if missing:
            raise ValueError(f"files lacks an entry for {missing[0]}")
        if self.size_bytes != self.files[self.models[0].file].size_bytes:
            raise ValueError(f"size_bytes {self.size_bytes} is not the size of {self.models[0].file}")
        if not any(model.deployable for model in self.models):
            raise ValueError(
                f"{self.models[0].engine} is for evaluation only, and no model file for deployment is there"
            )
        return self

    @property
    def config(self) -> CompressionConfig:
        """The compression configuration as a value."""
        return CompressionConfig.from_dict(self.configuration)

    @property
    def model(self) -> Model:
        """The model file that the study judged."""
        return self.models[0]

    @property
    def deployable_model(self) -> Model:
        """The first model file whose engine may be deployed; mostly the same as `model`."""
        return next(model for model in self.models if model.deployable)

    @property
    def measured(self) -> bool:
        """False where a latency is predicted."""
        return all(model.measurement.measured for model in self.models)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return self.model_dump(mode="json", by_alias=True)

    def save(self, folder: Path) -> None:
        """Write ``manifest.json`` into a folder."""
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's plain values without their ``digest``, independent of key order and white space."""
    rest = {key: value for key, value in values.items() if key != "digest"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def seal(values: Mapping[str, Any]) -> Manifest:
    """Make a manifest of plain values, with its digest.

    Raises:
        BundleError: a value is missing or invalid.
    """
    try:
        draft = Manifest.model_validate({**values, "digest": "0" * 64})
    except ValidationError as error:
        raise BundleError(f"cannot make a bundle: {_first_problem(error)}") from error
    try:
        return draft.model_copy(update={"digest": digest(draft.to_dict())})
    except ValueError as error:  # something in a free-form field, such as a measurement's conditions, is not JSON
        raise BundleError(f"cannot make a bundle: the manifest holds a value that is not JSON: {error}") from error


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a bundle; the other files are not touched.

    Raises:
        BundleError: there is no bundle, the schema is of another version, or a value is missing, invalid or was
            edited after the bundle was made.
    """
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise BundleError(f"no bundle at {folder}: not a folder; give the folder that holds {MANIFEST_FILE}")
    if path.is_symlink():
        raise BundleError(f"{path} is a symbolic link; a bundle holds its files itself")
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise BundleError(f"no bundle at {folder}: {MANIFEST_FILE} is missing") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not valid JSON: {error}; fetch the bundle again") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise BundleError(
            f"{path}: schema {schema!r} is not {SCHEMA!r}, the one that this version of autocompress reads"
        )
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        raise BundleError(f"{path}: {_first_problem(error)}") from error
    for name in manifest.files:
        if Path(name).name != name or "\\" in name or name in {MANIFEST_FILE, ".", ".."}:
            raise BundleError(f"{path}: file name {name!r} is not allowed; a bundle is one flat folder")
    if digest(values) != manifest.digest:
        raise BundleError(f"{path} was changed after the bundle was made: its digest does not match")
    return manifest


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
