"""Measures a node's memory, temperature and clock: a Pi throttles when it is hot, and its figures should show
that."""

from collections.abc import Callable
from typing import Any

import psutil

from ..protocol.wire import NO_TEMPERATURE, Vitals

LOOK_S = 1.0  # a look costs a tenth of a millisecond
# Where more than one has a name.
SENSORS = ("cpu_thermal", "coretemp", "k10temp", "soc_thermal", "cpu-thermal")


def looking(clock: Callable[[], float]) -> Callable[[], Vitals]:
    """Return a function that returns the vitals, measured at most once a second."""
    seen, seen_at, process = Vitals(), -LOOK_S, psutil.Process()

    def vitals() -> Vitals:
        nonlocal seen, seen_at
        if (now := clock()) - seen_at >= LOOK_S:
            seen_at = now
            seen = Vitals(process.memory_info().rss >> 10, temperature_c(), clock_mhz())
        return seen

    return vitals


def temperature_c() -> int:
    """Return the CPU's temperature, or any sensor's if none has a CPU's name."""
    try:
        celsius = sensor_c()
    except (OSError, ValueError):
        return NO_TEMPERATURE
    return celsius if NO_TEMPERATURE < celsius < 1000 else NO_TEMPERATURE  # a broken sensor says anything


def sensor_c() -> int:
    sensors: dict[str, list[Any]] = getattr(psutil, "sensors_temperatures", dict)()
    named = [sensors[name] for name in SENSORS if name in sensors] or list(sensors.values())
    return (
        round(max((each.current for each in named[0]), default=NO_TEMPERATURE)) if named else NO_TEMPERATURE
    )


def clock_mhz() -> int:
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError, AttributeError, ValueError):  # as psutil has it on some ARM kernels
        return 0
    return round(frequency.current) if frequency and 0 < frequency.current < 60000 else 0
