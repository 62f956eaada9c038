"""How well are latencies predicted that were not measured? Calibrated on some networks, tried on others.

    python benchmarks/predictor.py [--target cpu-onnxruntime --target cpu-openvino] [--measurements 50] [--held-out 40]
                                   [--seed 0] [--out runs/benchmarks/predictor]

The held-out configurations are drawn at random from the space that `autocompress calibrate` draws from, and none is
among those that it measures. Everything measured is kept below --out and in the latency cache: the same command goes on
where it was interrupted. Disturbed measurements are left out on both sides; repeat the command to try them again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _turns import machine

from autocompress.errors import TargetError
from autocompress.hardware.calibration import Collected, Scores, Step, calibrate, collect, first_guess
from autocompress.hardware.prediction import Prediction, PredictorKey, Sample, load_predictor
from autocompress.hardware.spread import calibration_space, candidates, rough_size, spread
from autocompress.hardware.targets import Engine, Target, resolve_target
from autocompress.specs.library import load_spec

FAMILY = "dae-former"
WORST = 5


def told(step: Step) -> None:
    """A line on the standard error for each configuration."""
    times = ", ".join(f"{name} {latency:.2f} ms" for name, latency in step.latencies.items()) or "nothing"
    print(f"[{step.done}/{step.total}] {step.label}: {times}", *step.remarks, sep="\n  ", file=sys.stderr, flush=True)


def judge(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Calibrate one target and try the predictors on other configurations; a row for each engine."""
    profile = load_spec("target", name)
    target = resolve_target(profile)
    everything = candidates(calibration_space(target, args.space), FAMILY, target)
    chosen = spread(everything, args.measurements, args.seed)
    left = [config for config in everything if config not in set(chosen)]
    drawn = random.Random(args.seed + 1).sample(left, min(args.held_out, len(left)))
    folder = args.out / f"{args.measurements}-seed{args.seed}"  # a predictor is made from all samples in its folder
    calibrate(
        target,
        chosen,
        first_guess(profile),
        listener=told,
        samples_folder=folder,
        predictors_folder=folder / "predictors",
    )
    held = collect(target, sorted(drawn, key=rough_size), listener=told, folder=args.out / "held-out")
    return [row(target, engine, held[engine.name], folder / "predictors") for engine in target.engines]


def row(target: Target, engine: Engine, held: Collected, folder: Path) -> dict[str, Any]:
    """What the predictor of an engine says about the held-out samples."""
    predictor = load_predictor(PredictorKey.of(target, engine), folder)
    result: dict[str, Any] = {
        "target": target.name,
        "engine": f"{engine.name} {engine.version}",
        "threads": engine.threads,
        "samples": 0 if predictor is None else predictor.samples,
        "held_out": len(held.samples),
        "left_out": len(held.disturbed) + len(held.failures),
        "scores": None,
        "worst": [],
    }
    if predictor is not None and held.samples:
        pairs = [(sample, predictor.predict(sample.costs)) for sample in held.samples]
        result["scores"] = asdict(Scores.of(pairs))
        pairs.sort(key=lambda pair: -abs(pair[1].latency_ms / pair[0].latency_ms - 1))
        result["worst"] = [_plain(sample, prediction) for sample, prediction in pairs[:WORST]]
    return result


def _plain(sample: Sample, prediction: Prediction) -> dict[str, Any]:
    return {
        "label": sample.label,
        "measured_ms": sample.latency_ms,
        "predicted_ms": prediction.latency_ms,
        "interval_ms": [prediction.low_ms, prediction.high_ms],
        "error": prediction.latency_ms / sample.latency_ms - 1,
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table and the worst predictions, as Markdown."""
    print("\n| target | engine | samples | held out | within 10 % | median | p90 | in interval | memory, median |")
    print("|---|---|---|---|---|---|---|---|---|")
    for each in rows:
        scores = each["scores"] or {}
        names = ("within", "median", "p90", "coverage", "memory")
        texts = ["" if scores.get(name) is None else f"{100 * scores[name]:.1f} %" for name in names]
        begin = (each["target"], each["engine"], each["samples"], each["held_out"])
        print("| " + " | ".join([*map(str, begin), *texts]) + " |")
    for each in rows:
        if each["left_out"]:
            print(f"\n{each['engine']}: {each['left_out']} held-out configurations were disturbed or failed")
        if each["worst"]:
            print(f"\nWorst predictions of {each['engine']}:\n")
        for bad in each["worst"]:
            low, high = bad["interval_ms"]
            print(
                f"- {bad['label']}: measured {bad['measured_ms']:.2f} ms, predicted {bad['predicted_ms']:.2f} "
                f"({low:.2f} to {high:.2f}), {100 * bad['error']:+.1f} %"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the machine, a table with a row for each engine, and the worst predictions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", help="hardware profile; may be given several times")
    parser.add_argument("--measurements", type=int, default=50)
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--space", help="search space by name or path, in place of that of autocompress calibrate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/predictor"))
    args = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    lines = machine(os.cpu_count() or 1)
    for name in args.target or ["cpu-onnxruntime", "cpu-openvino"]:
        try:
            rows += judge(name, args)
        except TargetError as error:
            print(f"{name} skipped: {error}", file=sys.stderr)
    if not rows:
        return 2
    print(lines)
    show(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    report = {"machine": lines.splitlines(), "measurements": args.measurements, "seed": args.seed, "rows": rows}
    (args.out / "results.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
