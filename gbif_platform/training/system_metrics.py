"""What the machine does while a training runs: CPU, memory, disk, network and GPU, by MLflow's own monitors."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

PREFIX = "system/"
SAMPLE_SECONDS = 10.0


class SystemMetrics:
    """A thread that hands over a sample every `SAMPLE_SECONDS`, until it is stopped.

    Args:
        take: called with the sample's metrics, named as MLflow names them (`system/cpu_utilization_percentage`).
    """

    def __init__(self, take: Callable[[dict[str, float]], None]) -> None:
        self._take = take
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def stop(self) -> None:
        """Take one last sample and end."""
        self._stopped.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        monitors = _monitors()
        _sample(monitors)  # rates are counted from here
        while True:
            stopped = self._stopped.wait(SAMPLE_SECONDS)
            self._take({PREFIX + name: value for name, value in _sample(monitors).items()})
            if stopped:
                return


def _monitors() -> list[Any]:
    monitors: list[Any] = []
    with suppress(Exception):  # an MLflow without psutil or pynvml, a machine without a GPU
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        monitors += [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(Exception):
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        monitors.append(GPUMonitor())
    return monitors


def _sample(monitors: list[Any]) -> dict[str, float]:
    sample: dict[str, float] = {}
    for monitor in monitors:
        with suppress(Exception):  # a GPU that is lost, a disk that is unmounted: no sample of it
            monitor.collect_metrics()
            sample |= monitor.aggregate_metrics()
            monitor.clear_metrics()
    return sample
