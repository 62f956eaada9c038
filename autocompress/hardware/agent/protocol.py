"""The measuring protocol: warm-up, series of timed runs, and which of them counts."""

import math
import os
import time
from typing import Any, Dict, List, Optional, Tuple

from .energy import energy_counters, energy_used
from .facts import clocks, temperatures
from .gpu import gpu_conditions, gpu_state
from .reading import read_line
from .tegrastats import Watch

PROTOCOL = 3
"""Version of the measuring protocol: figures of different versions are not compared or cached together."""


def percentile(ordered: List[float], share: float) -> float:
    """Percentile of an ascending list by linear interpolation, as NumPy does by default."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def interval_ranks(count: int, share: float) -> Tuple[int, int]:
    """Ranks (from 0) of the order statistics that enclose a quantile with 95 % confidence, whatever the distribution.

    The number of values below the quantile is binomial with ``count`` and ``share``. With too few values the upper
    rank is the last one, and the confidence on that side is less.
    """
    low, high, below = 0, count - 1, 0.0
    for rank in range(count + 1):
        # `below` is P(B < rank) here.
        if below <= 0.025:
            low = max(rank - 1, 0)
        if below >= 0.975:
            high = min(rank - 1, count - 1)
            break
        logarithm = math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1)
        below += math.exp(logarithm + rank * math.log(share) + (count - rank) * math.log(1.0 - share))
    return low, high


def summary(milliseconds: List[float]) -> Dict[str, Any]:
    """p50, p90, p99, mean and the 95 % confidence interval of p90."""
    ordered = sorted(milliseconds)
    low, high = interval_ranks(len(ordered), 0.9)
    return {
        "p50": percentile(ordered, 0.5),
        "p90": percentile(ordered, 0.9),
        "p99": percentile(ordered, 0.99),
        "mean": math.fsum(ordered) / len(ordered),
        "p90_interval": [ordered[low], ordered[high]],
        "runs": len(ordered),
    }


def warm_up(engine: Any, samples: List[Any], settings: Dict[str, Any]) -> int:
    """Run until two windows in a row have the same median within 3 %, or the time for it is over."""
    begin = time.perf_counter()
    previous: Optional[float] = None
    window: List[float] = []
    runs = 0
    while True:
        start = time.perf_counter()
        engine.run(samples[runs % len(samples)])
        window.append(time.perf_counter() - start)
        runs += 1
        spent = time.perf_counter() - begin
        if runs >= 3 and spent > settings["warmup_seconds"]:
            return runs
        if len(window) == 8:
            median = percentile(sorted(window), 0.5)
            if previous is not None and abs(median - previous) <= 0.03 * previous:
                return runs
            previous, window = median, []


def timed_series(engine: Any, samples: List[Any], settings: Dict[str, Any]) -> Dict[str, Any]:
    """One series of timed runs, with what else the machine did meanwhile."""
    clock, run = time.perf_counter, engine.run
    times: List[float] = []
    energy = energy_counters(engine)
    load = Load()
    begin = clock()
    index, number = 0, len(samples)
    while True:
        for _ in range(16):
            sample = samples[index % number]
            start = clock()
            run(sample)
            times.append((clock() - start) * 1000.0)
            index += 1
        spent = clock() - begin
        if len(times) < settings["min_runs"] or spent < settings["min_seconds"]:
            continue
        result = summary(times)
        width = result["p90_interval"][1] - result["p90_interval"][0]
        if width <= settings["interval"] * result["p90"] or spent >= settings["max_seconds"]:
            joules = energy_used(energy, energy_counters(engine))
            return {
                "latency": result,
                "seconds": spent,
                "load": load.since(),
                "energy_joules": None if joules is None else joules / len(times),
            }


def verdict(
    series: List[Tuple[float, Optional[float], float]], settings: Dict[str, Any], wanted: int = 2
) -> Optional[Tuple[int, bool]]:
    """Which of several series of runs counts, and whether even that one was disturbed; None where one more is needed.

    What else happens on a machine, seen or unseen (a neighbour on the same hardware does not show in any counter of a
    virtual machine), can only make a run longer. So the fastest series counts, once ``wanted`` undisturbed ones agree.

    Args:
        series: p50, foreign load in cores (None where unknown), and duration in seconds of each.
        settings: ``foreign_limit``, ``attempts``, ``agreement`` (None: a single one is enough), ``repeat_seconds``.
        wanted: so many must agree.
    """
    quiet = [each for each in series if each[1] is None or each[1] <= settings["foreign_limit"]]
    ordered = sorted(each[0] for each in quiet)
    enough = wanted if settings["agreement"] is not None else 1
    agreed = len(ordered) >= enough and (
        enough == 1 or ordered[enough - 1] <= ordered[0] * (1.0 + settings["agreement"])
    )
    over = sum(each[2] for each in series) >= settings["repeat_seconds"]
    if not agreed and not over and len(series) - len(quiet) < settings["attempts"]:
        return None
    if quiet:
        fastest = min(range(len(series)), key=lambda index: (series[index] not in quiet, series[index][0]))
        # Where the time was over after a single long series, nothing speaks against it.
        return fastest, not agreed and len(quiet) > 1
    return min(range(len(series)), key=lambda index: (series[index][1] or 0.0, series[index][0])), True


def measure_latency(engine: Any, samples: List[Any], settings: Dict[str, Any]) -> Dict[str, Any]:
    """The whole protocol: warm-up, then series of runs until `verdict` is content with one of them.

    On a Jetson its tegrastats watches meanwhile. A series in which the board was slowed down counts as disturbed, and
    is followed by another one whatever the time.
    """
    watch = Watch.start()
    try:
        warmup = engine.warm_up(samples, settings)
        before, gpu_before = clocks(), gpu_state(engine)
        attempts: List[Dict[str, Any]] = []
        chosen: Optional[Tuple[int, bool]] = None
        while chosen is None:
            attempts.append(watched_attempt(engine, samples, settings, watch))
            series = [(each["latency"]["p50"], _disturbance(each), each["seconds"]) for each in attempts]
            chosen = verdict(series, settings, 1 if engine.repeats_itself else 2)
            if chosen is not None and len(attempts) == 1 and attempts[0].get("throttled"):
                chosen = None
    finally:
        if watch is not None:
            watch.stop()
    best, disturbed = attempts[chosen[0]], chosen[1]
    return {
        "latency": best["latency"],
        "energy_joules": best.get("energy_joules"),
        "disturbed": disturbed,
        "conditions": {
            "warmup_runs": warmup,
            "attempts": len(attempts),
            "p50_of_attempts": [round(each["latency"]["p50"], 4) for each in attempts],
            "seconds": round(best["seconds"], 3),
            "foreign_load_cores": best["load"]["foreign"],
            "stolen_cores": best["load"]["stolen"],
            "cores_used": best["load"]["own"],
            "clocks_mhz": {"before": before, "after": clocks()},
            "temperatures_c": temperatures(),
            **gpu_conditions(engine, gpu_before),
            **best.get("conditions", {}),
            **best.get("watched", {}),
        },
    }


def watched_attempt(
    engine: Any, samples: List[Any], settings: Dict[str, Any], watch: Optional[Watch]
) -> Dict[str, Any]:
    """`Engine.attempt`, with what was seen of the board meanwhile: energy, ``throttled`` and ``watched`` conditions."""
    if watch is None:
        return dict(engine.attempt(samples, settings))
    begin = watch.mark()
    attempt = dict(engine.attempt(samples, settings))
    seen = watch.seen(begin)
    gpu = engine.device != "cpu"
    attempt["load"] = dict(
        attempt["load"], foreign=seen.without_watching(attempt["load"]["foreign"], attempt["seconds"])
    )
    power, throttled = seen.power_w(gpu), seen.throttled(gpu)
    if attempt.get("energy_joules") is None and power is not None:
        attempt["energy_joules"] = power * attempt["latency"]["mean"] / 1000.0
    attempt["throttled"] = throttled
    attempt["watched"] = {"tegrastats": seen.summary(gpu), "throttled": throttled}
    return attempt


def _disturbance(attempt: Dict[str, Any]) -> Optional[float]:
    """Foreign load in cores; without end for a series in which the board was slowed down."""
    if attempt.get("throttled"):
        return math.inf
    foreign: Optional[float] = attempt["load"]["foreign"]
    return foreign


class Load:
    """CPU time of this process and of everybody else, in cores, since it was made; None where the kernel hides it.

    Args:
        programs: whether the programs that this process started are its own, once they have ended.
    """

    def __init__(self, programs: bool = False) -> None:
        self.programs = programs
        self.begin = self._now()

    def _now(self) -> Tuple[float, float, Optional[float], Optional[float]]:
        own = time.process_time()
        if self.programs:
            own += sum(os.times()[2:4])
        fields = (read_line("/proc/stat") or "").split("\n")[0].split()
        if len(fields) < 9 or fields[0] != "cpu":
            return time.perf_counter(), own, None, None
        ticks = float(os.sysconf("SC_CLK_TCK"))
        user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) / ticks for field in fields[1:9])
        return time.perf_counter(), own, user + nice + system + irq + softirq, steal

    def since(self) -> Dict[str, Any]:
        now = self._now()
        wall = max(now[0] - self.begin[0], 1e-9)
        own = now[1] - self.begin[1]
        result: Dict[str, Any] = {"own": round(own / wall, 3), "foreign": None, "stolen": None}
        if now[2] is not None and now[3] is not None and self.begin[2] is not None and self.begin[3] is not None:
            # Time that a hypervisor gave to others disturbs like a neighbour on the same machine.
            stolen = now[3] - self.begin[3]
            result["foreign"] = round(max(now[2] - self.begin[2] + stolen - own, 0.0) / wall, 3)
            result["stolen"] = round(stolen / wall, 3)
        return result
