"""What an NVIDIA GPU tells about itself, by the library of its driver."""

import os
from typing import Any, Dict, Optional, Tuple


class Gpu:
    """The GPU that CUDA calls device 0, asked through the driver's own library (NVML).

    Args:
        library: NVML, as `ctypes` loads it.
        handle: of the GPU in it.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self.library = library
        self.handle = handle

    @classmethod
    def find(cls) -> Optional["Gpu"]:
        """The GPU; None where there is none, or the driver's libraries are missing."""
        import ctypes

        try:
            return cls.of(ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libnvidia-ml.so.1"))
        except OSError:
            return None

    @classmethod
    def of(cls, cuda: Any, library: Any) -> Optional["Gpu"]:
        """As `find`, with the libraries.

        CUDA tells the place of its device 0 on the bus: NVML numbers GPUs in another order, and knows nothing of
        CUDA_VISIBLE_DEVICES.
        """
        import ctypes

        device, bus, handle = ctypes.c_int(), ctypes.create_string_buffer(32), ctypes.c_void_p()
        if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0) or cuda.cuDeviceGetPCIBusId(bus, 32, device):
            return None
        if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByPciBusId_v2(bus, ctypes.byref(handle)):
            return None
        return cls(library, handle)

    def facts(self) -> Dict[str, Any]:
        """What a latency depends on, and what stays as it is: name, driver, largest clocks, limit of the power."""
        limit = self._number("nvmlDeviceGetEnforcedPowerLimit")
        return {
            "name": self._string("nvmlDeviceGetName", self.handle),
            "driver": self.driver(),
            "max_sm_clock_mhz": self._number("nvmlDeviceGetMaxClockInfo", 1),
            "max_memory_clock_mhz": self._number("nvmlDeviceGetMaxClockInfo", 2),
            "power_limit_w": None if limit is None else limit / 1000.0,
        }

    def driver(self) -> Optional[str]:
        """Version of the driver."""
        return self._string("nvmlSystemGetDriverVersion")

    def state(self) -> Dict[str, Any]:
        """Clocks, temperature, power, performance state (0 is the fastest), and who else computes on it, now."""
        power = self._number("nvmlDeviceGetPowerUsage")
        memory, others = gpu_share(self.processes(), os.getpid())
        return {
            "sm_clock_mhz": self._number("nvmlDeviceGetClockInfo", 1),
            "memory_clock_mhz": self._number("nvmlDeviceGetClockInfo", 2),
            "temperature_c": self._number("nvmlDeviceGetTemperature", 0),
            "power_w": None if power is None else power / 1000.0,
            "performance_state": self._number("nvmlDeviceGetPerformanceState"),
            "process_memory_bytes": memory,
            "other_processes": others,
        }

    def energy(self) -> Optional[float]:
        """Joules that the whole GPU has used since its driver was loaded; None before the Volta generation."""
        import ctypes

        value = ctypes.c_ulonglong()
        if not self._call("nvmlDeviceGetTotalEnergyConsumption", self.handle, ctypes.byref(value)):
            return None
        return value.value / 1000.0

    def processes(self) -> Dict[int, Optional[int]]:
        """Bytes of GPU memory, where known, of each process that computes on it, by its number on the host."""
        import ctypes

        class Process(ctypes.Structure):  # nvmlProcessInfo_t of the functions that end with _v3
            _fields_ = [
                ("number", ctypes.c_uint),
                ("memory", ctypes.c_ulonglong),
                ("gpu_instance", ctypes.c_uint),
                ("compute_instance", ctypes.c_uint),
            ]

        found, count = (Process * 64)(), ctypes.c_uint(64)
        if not self._call("nvmlDeviceGetComputeRunningProcesses_v3", self.handle, ctypes.byref(count), found):
            return {}
        unknown = 2**64 - 1
        return {int(p.number): None if p.memory == unknown else int(p.memory) for p in found[: count.value]}

    def _number(self, function: str, *arguments: int) -> Optional[int]:
        import ctypes

        value = ctypes.c_uint()
        return int(value.value) if self._call(function, self.handle, *arguments, ctypes.byref(value)) else None

    def _string(self, function: str, *arguments: Any) -> Optional[str]:
        import ctypes

        text = ctypes.create_string_buffer(96)
        return text.value.decode(errors="replace") if self._call(function, *arguments, text, 96) else None

    def _call(self, name: str, *arguments: Any) -> bool:
        """Whether the function is there and did what it should; what a driver does not tell stays unknown."""
        function = getattr(self.library, name, None)
        return function is not None and function(*arguments) == 0


def gpu_share(processes: Dict[int, Optional[int]], own: int) -> Tuple[Optional[int], Optional[int]]:
    """Of those that compute on a GPU: the memory of this process in bytes, and how many others there are.

    In a container the driver numbers processes as the host does; this one is then among those that it names.
    """
    if not processes:
        return None, None
    if own in processes:
        return processes[own], len(processes) - 1
    return (next(iter(processes.values())) if len(processes) == 1 else None), len(processes) - 1


def gpu_state(engine: Any) -> Optional[Dict[str, Any]]:
    """`Gpu.state` of the GPU that an engine computes on; None where nothing is known of one."""
    return None if engine.gpu is None else engine.gpu.state()


def gpu_conditions(engine: Any, before: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    if engine.gpu is None:
        return {}
    return {"gpu": dict(engine.gpu.facts(), before=before, after=engine.gpu.state())}
