"""A Jetson watched while something is timed: clocks, temperatures, power and memory, as its tegrastats tells them."""

import os
import re
import shutil
import signal
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .board import Alarms, gpu_clocks, gpu_folder, new_alarms, overcurrent, tegrastats_program
from .reading import read_line

INTERVAL_MS = 250
BUSY_PERCENT = 10.0
"""From this load on the GPU counts as computing: what a sample tells of clock and power is of no use otherwise."""
CLOCK_SHARE, DROPPED_SHARE = 0.97, 0.25
"""The GPU clock has dropped where it is below this share of what it should be in more than this share of samples."""
INPUT_RAILS = ("POM_5V_IN", "VDD_IN", "VIN")
"""Rails through which all the power of a board or module comes, by the names of its generations."""
_CLOCK_LOOP = 'while :; do c=; l=; read -r c <"$1"; read -r l <"$2"; echo "gpu ${c:--} ${l:--}"; sleep 0.25; done'
"""The kernel's own figures of clock (Hz) and load (of 1000): to users other than root tegrastats tells no GPU clock."""


class Sample(NamedTuple):
    """One line of tegrastats; None or empty where it does not tell.

    Attributes:
        memory_bytes: in use by all of the system.
        gpu_load: of the GPU, in percent.
        gpu_clock_mhz: of the GPU; the highest of its parts.
        temperatures_c: by zone, without those that are turned off and the power chip's, which is always 100.
        rails_mw: what each power rail carries now.
    """

    memory_bytes: Optional[int]
    gpu_load: Optional[float]
    gpu_clock_mhz: Optional[float]
    temperatures_c: Dict[str, float]
    rails_mw: Dict[str, int]

    def power_w(self) -> Optional[float]:
        """Through the input rail, or all rails together where there is none; None without rails."""
        rail = self.rail()
        if rail is None:
            return None
        return (self.rails_mw[rail] if rail in self.rails_mw else sum(self.rails_mw.values())) / 1000.0

    def rail(self) -> Optional[str]:
        """The input rail; a sum, as ``CPU+GPU``, where the board has none."""
        if not self.rails_mw:
            return None
        return next((name for name in INPUT_RAILS if name in self.rails_mw), "+".join(sorted(self.rails_mw)))

    def busy(self) -> bool:
        """Whether the GPU computed; where nobody tells its load, it is taken to."""
        return self.gpu_load is None or self.gpu_load >= BUSY_PERCENT


def parse_line(line: str) -> Optional[Sample]:
    """One line of tegrastats, of the first boards as of the newest; None where it is something else."""
    memory = re.search(r"\bRAM (\d+)/\d+([kMG]?)B", line)
    if memory is None:
        return None
    # `GR3D_FREQ 99%@921`, `99%`, `12%@[1300,1300]`, `@[314,314,314]`
    gpu = re.search(r"\bGR3D(?:_FREQ)? (?:(\d+(?:\.\d+)?)%)?(?:@\[?(\d+(?:,\d+)*))?", line)
    clocks = [int(part) for part in gpu.group(2).split(",")] if gpu and gpu.group(2) else []
    zones = re.findall(r"\b([A-Za-z][\w.-]*)@(-?\d+(?:\.\d+)?)C\b", line)
    rails = re.findall(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?![\w.])", line)
    return Sample(
        int(memory.group(1)) * {"": 1, "k": 2**10, "M": 2**20, "G": 2**30}[memory.group(2)],
        float(gpu.group(1)) if gpu and gpu.group(1) else None,
        float(max(clocks)) if clocks else None,
        {name: float(value) for name, value in zones if name != "PMIC" and float(value) > -55},
        {name: int(value) for name, value in rails},
    )


def parse_log(text: str) -> List[Sample]:
    """The samples in what a `Watch` wrote; a line of tegrastats without clock or load gets them of the line before."""
    found: List[Sample] = []
    alone: List[Sample] = []
    clock: Optional[float] = None
    load: Optional[float] = None
    for line in text.split("\n"):
        own = re.match(r"gpu (\d+|-) (\d+|-)$", line)
        if own:
            clock = int(own.group(1)) / 1e6 if own.group(1) != "-" else None
            load = int(own.group(2)) / 10.0 if own.group(2) != "-" else None
            alone.append(Sample(None, load, clock, {}, {}))
            continue
        sample = parse_line(line)
        if sample is not None:
            found.append(
                sample._replace(
                    gpu_clock_mhz=clock if sample.gpu_clock_mhz is None else sample.gpu_clock_mhz,
                    gpu_load=load if sample.gpu_load is None else sample.gpu_load,
                )
            )
    return found or alone


Mark = Tuple[int, float, Optional[Alarms]]
"""A moment of a `Watch`: bytes of its log, seconds of processor time that it has taken, alarms so far."""


class Watch:
    """tegrastats in the background, writing into the working folder, until `stop`, or until this process dies.

    Args:
        program: tegrastats.
    """

    def __init__(self, program: str) -> None:
        self.path = os.path.abspath("tegrastats.log")
        self.processes: List["subprocess.Popen[bytes]"] = []
        self.limits = gpu_clocks()
        # A pipe or a file makes C's output wait for a full buffer, which is some three seconds of lines.
        unbuffered = [shutil.which("stdbuf"), "-oL"] if shutil.which("stdbuf") else []
        self._begin([*unbuffered, program, "--interval", str(INTERVAL_MS)])
        folder = gpu_folder()
        if folder is not None:
            self._begin(["/bin/sh", "-c", _CLOCK_LOOP, "sh", os.path.join(folder, "cur_freq"), _load_file(folder)])

    @classmethod
    def start(cls) -> Optional["Watch"]:
        """Begin to watch; None where there is no tegrastats."""
        program = tegrastats_program()
        return None if program is None else cls(program)

    def mark(self) -> Mark:
        """This moment, for `seen`; the kernel's log is read, so not while something is timed."""
        return self._written(), sum(_cpu_seconds(each.pid) for each in self.processes), overcurrent()

    def seen(self, since: Mark) -> "Seen":
        """What was seen since a moment."""
        end, cpu = self._written(), sum(_cpu_seconds(each.pid) for each in self.processes)
        with open(self.path, "rb") as stream:
            before = stream.read(since[0]).decode(errors="replace")
            told = stream.read(end - since[0]).decode(errors="replace")
        alarms = new_alarms(since[2], overcurrent())
        return Seen(parse_log(before), parse_log(told), before + told, cpu - since[1], alarms, self.limits)

    def stop(self) -> None:
        """End it."""
        for each in self.processes:
            if each.poll() is None:
                each.kill()
            try:
                each.wait(5)
            except subprocess.TimeoutExpired:  # stuck in the kernel; the signal waits for it there
                continue
        self.processes = []

    def _begin(self, command: List[Any]) -> None:
        with open(self.path, "ab") as log:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    preexec_fn=_dying_with(os.getpid()),  # noqa: PLW1509 (it does nothing but one system call)
                )
            except OSError:
                return  # a program that cannot be run tells nothing, as one that is not there
        self.processes.append(process)

    def _written(self) -> int:
        return os.path.getsize(self.path) if os.path.exists(self.path) else 0


class Seen:
    """What a `Watch` saw of one series of runs.

    Args:
        before: samples from its beginning to the series.
        samples: those of the series.
        told: all that was written, samples or not.
        cpu_seconds: processor time that the watching took.
        alarms: over-current alarms that came meanwhile.
        limits: `gpu_clocks` at its beginning.
    """

    def __init__(
        self,
        before: List[Sample],
        samples: List[Sample],
        told: str,
        cpu_seconds: float,
        alarms: int,
        limits: Dict[str, float],
    ) -> None:
        self.before = before
        self.samples = samples
        self.told = told
        self.cpu_seconds = cpu_seconds
        self.alarms = alarms
        self.limits = limits

    def without_watching(self, foreign: Optional[float], seconds: float) -> Optional[float]:
        """A foreign load of so many seconds, in cores, without what the watching took."""
        if foreign is None or seconds <= 0:
            return foreign
        return round(max(foreign - self.cpu_seconds / seconds, 0.0), 3)

    def power_w(self, gpu: bool) -> Optional[float]:
        """Mean power; with ``gpu`` only of samples in which the GPU computed, as it does not while a model loads."""
        told = [each.power_w() for each in self.samples if each.busy() or not gpu]
        known = [each for each in told if each is not None]
        return sum(known) / len(known) if known else None

    def throttled(self, gpu: bool) -> Optional[str]:
        """Why the board was slower than it can be; None where nothing says that it was.

        The GPU clock should be that at which the clocks are locked, or else the highest that was seen so far while the
        GPU computed. It has dropped where more than a quarter of the samples are below 97 % of that.

        Args:
            gpu: whether the GPU computed; else its clock says nothing.
        """
        reasons = []
        busy = [each.gpu_clock_mhz for each in self.samples if each.busy() and each.gpu_clock_mhz]
        known = [each.gpu_clock_mhz for each in self.before if each.busy() and each.gpu_clock_mhz]
        least, most = self.limits.get("min_freq"), self.limits.get("max_freq")
        if gpu and busy:
            wanted = max([*busy, *known, *([most] if most is not None and least == most else [])])
            low = [clock for clock in busy if clock < CLOCK_SHARE * wanted]
            if len(low) > DROPPED_SHARE * len(busy):
                reasons.append(
                    "the GPU clock was below 97 %% of %.0f MHz in %d of %d samples, down to %.0f MHz%s"
                    % (wanted, len(low), len(busy), min(low), "" if least == most else " (sudo jetson_clocks locks it)")
                )
        if self.alarms:
            reasons.append("%d over-current alarm%s came" % (self.alarms, "" if self.alarms == 1 else "s"))
        return "; ".join(reasons) or None

    def summary(self, gpu: bool = False) -> Dict[str, Any]:
        """Plain values: ``samples``, ``gpu_clock_mhz`` (min, median, max), ``temperatures_c`` (highest), ``power_w``,
        ``rail``, ``memory_peak_bytes``; with ``gpu``, clocks and power only of samples in which the GPU computed. Where
        tegrastats told nothing of use there is a ``message``: its first line, or ``nothing``."""
        clocks = sorted(each.gpu_clock_mhz for each in self.samples if each.gpu_clock_mhz and (each.busy() or not gpu))
        hottest: Dict[str, float] = {}
        for sample in self.samples:
            for zone, degrees in sample.temperatures_c.items():
                hottest[zone] = max(degrees, hottest.get(zone, degrees))
        power = self.power_w(gpu)
        memory = [each.memory_bytes for each in self.samples if each.memory_bytes is not None]
        found = {
            "samples": len(self.samples),
            "gpu_clock_mhz": None
            if not clocks
            else {"min": clocks[0], "median": clocks[len(clocks) // 2], "max": clocks[-1]},
            "temperatures_c": hottest or None,
            "power_w": None if power is None else round(power, 3),
            "rail": next((each.rail() for each in self.samples if each.rails_mw), None),
            "memory_peak_bytes": max(memory) if memory else None,
        }
        if not any(each.memory_bytes for each in self.before + self.samples):
            other = [line for line in self.told.split("\n") if line and not line.startswith("gpu ")]
            found["message"] = other[0][:200] if other else "nothing"
        return found


def _load_file(folder: str) -> str:
    """Where the kernel tells the load of a GPU; a file without numbers where it does not."""
    for path in (os.path.join(folder, "device", "load"), "/sys/devices/gpu.0/load"):
        if (read_line(path) or "").isdigit():
            return path
    return os.devnull


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process and of those children of it that have ended."""
    fields = (read_line("/proc/%d/stat" % pid) or "").rpartition(")")[2].split()
    if len(fields) < 15:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / float(os.sysconf("SC_CLK_TCK"))


def _dying_with(parent: int) -> Any:
    """What a child calls to be killed when this process dies.

    The library is opened here and not in the child: an engine's threads may hold a lock that a child cannot get.
    """
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    library = ctypes.CDLL(None)

    def call() -> None:
        library.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return call
