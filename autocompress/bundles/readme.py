"""The README of a bundle: what it is, and how to run it, where that can be done with ONNX Runtime and NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping

from autocompress.bundles.manifest import Manifest, Model

# Tested as it stands: tests/bundles/test_readme.py runs it and compares it with `Bundle.predict`.
_CODE = """\
import numpy as np, onnxruntime
def weights(size, out):  # bilinear, anti-aliased when it shrinks
    scale = size / out
    near = 1 - abs(np.arange(size) - (np.arange(out)[:, None] + 0.5) * scale + 0.5) / max(scale, 1)
    return np.maximum(near, 0) / np.maximum(near, 0).sum(1, keepdims=True)
def resize(image, height, width):
    return weights(image.shape[-2], height) @ image @ weights(image.shape[-1], width).T
session = onnxruntime.InferenceSession("{file}")
image = np.load("slice.npy")  # channels x height x width, {low:g} to {high:g}
(logits,) = session.run(None, {{"input": resize(image, {side}, {side})[None].astype(np.float32)}})
labels = resize(logits[0], *image.shape[-2:]).argmax(0)  # class index of each pixel
"""


# Of an exported program, which is read by autocompress; with PyTorch alone there are `weights.safetensors`.
_PROGRAM_CODE = """\
import numpy as np
from autocompress import load
image = np.load("slice.npy")  # channels x height x width, {low:g} to {high:g}
labels = load(".").predict(image)  # class index of each pixel
"""


def readme_text(manifest: Manifest) -> str:
    """Markdown text for a bundle."""
    config, metrics = manifest.config, manifest.metrics
    low, high = manifest.preprocessing.value_range
    test = "" if metrics.dice_test is None else f", {metrics.dice_test:.2f} on {metrics.cases_test} test cases"
    facts = [
        f"- {manifest.family}, {config.label} (`{manifest.identifier}`), for {_targets(manifest)}",
        f"- Dice {metrics.dice:.2f} on {metrics.cases} validation cases{test}; {metrics.rule}",
        *(_latency_line(model) for model in manifest.models),
        f"- {manifest.complexity.parameters / 1e6:.3f} M parameters, {manifest.complexity.gmacs:.4f} GMacs, "
        f"{manifest.size_bytes / 1e6:.2f} MB",
        f"- classes: {', '.join(f'{index} {name}' for index, name in enumerate(manifest.classes))}",
    ]
    program = manifest.deployable_model.engine == "torch"
    code = (_PROGRAM_CODE if program else _CODE).format(
        file=manifest.deployable_model.file, low=low, high=high, side=config.resolution
    )
    how = "With autocompress and PyTorch" if program else "With ONNX Runtime and NumPy alone"
    window = manifest.preprocessing.window
    scaling = "" if window is None else f" ({window[0]:g} to {window[1]:g} of the original images, clipped)"
    parts = [
        f"# {manifest.name}",
        "A compressed segmentation network, exported and checked. `manifest.json` holds all figures with their "
        "conditions.",
        "\n".join(facts),
        "## Use",
        f"{how}; intensities are {low:g} to {high:g}{scaling}:",
        f"```python\n{code}```",
        "From the command line:" if program else "With autocompress:",
        f"```sh\nautocompress predict {manifest.name} INPUT --out LABELS\nautocompress verify {manifest.name}\n```",
    ]
    if manifest.licences:
        parts += ["## Licence", "\n".join(f"- {note}" for note in manifest.licences)]
    return "\n\n".join(parts) + "\n"


def _targets(manifest: Manifest) -> str:
    names = [model.target for model in manifest.models if model.target is not None] or [manifest.target]
    return f"the target{'' if len(names) == 1 else 's'} " + ", ".join(f"`{name}`" for name in names)


def _latency_line(model: Model) -> str:
    measurement = model.measurement
    latency = measurement.latency
    assert latency is not None  # the manifest checks it
    word = "measured" if measurement.measured else "predicted, not measured"
    host = f"{measurement.engine} {measurement.engine_version}".strip()
    where = "" if model.target is None else f" for `{model.target}`"
    figures = f"{latency.p50:.3f} ms p50, {latency.p90:.3f} ms p90"
    line = f"- `{model.file}`{where}: {figures} ({word}: {host} on {measurement.host})"
    parity = measurement.conditions.get("parity")
    if not isinstance(parity, Mapping):
        return line
    return (
        f"{line}; on {parity['slices']} of {parity['of']} {parity['split']} slices its Dice is {parity['dice']:.2f} "
        f"there and {parity['dice_here']:.2f} by {parity['engine_here']} where the search ran, with "
        f"{100 * parity['same_pixels']:.2f} % of the pixels in the same class"
    )
