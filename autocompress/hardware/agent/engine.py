"""What every engine has: `version`, `shape` (of its input; None or text for a free axis), `run(array) -> array`."""

from typing import Any, Dict, List, Optional

from .arrays import NumPyArrays
from .errors import RefusedError
from .facts import resident_memory
from .gpu import Gpu
from .phases import Phases
from .protocol import timed_series, warm_up


class Engine:
    """One model in one engine, or only the engine's facts where the request is a probe.

    Attributes:
        version: as the engine itself reports it.
        details: plain facts for the record.
        shape: of the model's first input; None or text for a free axis.
        device: ``cpu``, or the kind of GPU.
        gpu: facts about the GPU; None without one, and where its driver does not tell.
        arrays: how samples and outputs are read, checked and written.
        fed: so many different samples are tried before the timing, and fed in turn while it lasts.
        repeats_itself: whether `attempt` is several series already, of which it chose one.
    """

    version = ""
    arrays: Any = NumPyArrays
    fed = 16
    repeats_itself = False

    def __init__(self, request: Dict[str, Any], phases: Phases) -> None:
        self.details: Dict[str, Any] = {}
        self.shape: List[Any] = []
        self.device = str(request.get("device", "cpu"))
        self.gpu = None if self.device == "cpu" else Gpu.find()

    def run(self, array: Any) -> Any:
        """The model's first output for one float32 sample of `shape`."""
        raise RefusedError("an engine without run()")

    def finish(self) -> None:
        """Add to `details` what is known only after the last run."""

    def warm_up(self, samples: List[Any], settings: Dict[str, Any]) -> int:
        """Run until the times are stable; the number of runs."""
        return warm_up(self, samples, settings)

    def attempt(self, samples: List[Any], settings: Dict[str, Any]) -> Dict[str, Any]:
        """One series of timed runs: ``latency``, ``seconds``, ``load``, and ``conditions`` where there are more."""
        return timed_series(self, samples, settings)

    def peak_memory(self) -> Optional[int]:
        """Peak resident memory in bytes of the process that ran the model."""
        return resident_memory("VmHWM")


def option_text(value: Any) -> str:
    return ("1" if value else "0") if isinstance(value, bool) else str(value)
