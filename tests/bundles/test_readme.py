from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from autocompress.bundles import load


def test_the_code_in_the_readme_runs_and_agrees_with_predict(bundle: Path) -> None:
    image = np.random.default_rng(3).random((1, 50, 40), dtype=np.float32)
    np.save(bundle / "slice.npy", image)
    text = (bundle / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    assert "autocompress" not in code.group(1)
    done = subprocess.run(
        [sys.executable, "-c", code.group(1) + "np.save('labels.npy', labels)"],
        cwd=bundle,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = load(bundle, threads=1).predict(image[0])
    assert (np.load(bundle / "labels.npy") == expected).mean() > 0.999


def test_the_readme_tells_the_figures(template: Path) -> None:
    text = (template / "README.md").read_text()
    for part in (
        "Dice 81.50 on 8 validation cases, 79.25 on 20 test cases",
        "1.500 ms p50",
        "measured",
        "2 myocardium",
    ):
        assert part in text
