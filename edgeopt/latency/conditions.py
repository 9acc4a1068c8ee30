"""What a board says of itself while it measures: recorded with every table, and watched.

Everything is read through a `Reader`, so that it works on this machine as over any transport.
What a board does not tell, or does not let us read, stays unknown: it is never taken for good.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: Text of a small file of the board by its absolute path; None if absent or not permitted.
Reader = Callable[[str], str | None]

CPUS = "/sys/devices/system/cpu"
_THERMAL = "/sys/class/thermal"
_PI_THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"
_PI_NOW = 0xF  # under-voltage, frequency capped, throttled, soft temperature limit: at present
_ZONES = 24
_COOLERS = 24
#: Governors under which a kernel's clock does not depend on what ran before it.
STEADY_GOVERNORS = frozenset({"performance", "userspace"})
UNKNOWN = "unknown"


def local_reader(root: Path = Path("/")) -> Reader:
    """Reads this machine's files (below ``root``)."""

    def read(path: str) -> str | None:
        try:
            return (root / path.lstrip("/")).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    return read


def _clean(text: str | None, limit: int = 60) -> str | None:
    if text is None:
        return None
    shown = "".join(c for c in text.strip() if c.isprintable())[:limit]
    return shown or None


def _whole(text: str | None) -> int | None:
    value = (text or "").strip()
    return int(value) if re.fullmatch(r"-?\d{1,15}", value) else None


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of a board at one moment; None is unknown.

    Attributes:
        clock_hz: of the processor that measures.
        temperature_c: of the hottest sensor.
        throttled: why the board runs slower than it could, in words; empty if nothing says so.
        throttle_count: how often the processor counted itself throttled.
    """

    clock_hz: int | None = None
    temperature_c: float | None = None
    throttled: str = ""
    throttle_count: int | None = None


@dataclass(slots=True)
class Monitor:
    """Watches one processor of a board.

    Args:
        read: reads the board's files.
        cpu: the processor that measures.
    """

    read: Reader
    cpu: int = 0
    _zones: list[str] | None = None
    _trips: dict[str, float] = field(default_factory=dict)
    _coolers: list[str] = field(default_factory=list)
    _files: dict[str, bool] = field(default_factory=dict)

    def _text(self, path: str) -> str | None:
        """A file that was absent once is not asked for again: a transport's round trips add up."""
        if self._files.get(path) is False:
            return None
        found = _clean(self.read(path))
        self._files.setdefault(path, found is not None)
        return found

    def _find_zones(self) -> list[str]:
        if self._zones is None:
            self._zones = []
            for number in range(_ZONES):
                zone = f"{_THERMAL}/thermal_zone{number}"
                if self._text(f"{zone}/type") is None and self._text(f"{zone}/temp") is None:
                    break
                self._zones.append(zone)
                for trip in range(8):
                    kind = self._text(f"{zone}/trip_point_{trip}_type")
                    if kind is None:
                        break
                    limit = _whole(self._text(f"{zone}/trip_point_{trip}_temp"))
                    if kind in ("passive", "hot") and limit is not None and limit > 20_000:
                        self._trips[zone] = min(limit / 1000, self._trips.get(zone, 1e9))
            for number in range(_COOLERS):
                cooler = f"{_THERMAL}/cooling_device{number}"
                kind = self._text(f"{cooler}/type")
                if kind is None:
                    break
                if "cpufreq" in kind or kind == "Processor":
                    self._coolers.append(cooler)
        return self._zones

    @property
    def trip_c(self) -> float | None:
        """The temperature from which the board slows itself down."""
        self._find_zones()
        return min(self._trips.values(), default=None)

    def clock_hz(self) -> int | None:
        """The processor's clock now."""
        khz = _whole(self._text(f"{CPUS}/cpu{self.cpu}/cpufreq/scaling_cur_freq"))
        return khz * 1000 if khz is not None and khz > 0 else None

    def reading(self) -> Reading:
        """Read what changes while measuring."""
        why = []
        hottest: float | None = None
        for zone in self._find_zones():
            value = _whole(self._text(f"{zone}/temp"))
            if value is None or not -50_000 < value < 200_000:
                continue
            celsius = value / 1000
            hottest = celsius if hottest is None else max(hottest, celsius)
            if celsius >= self._trips.get(zone, 1e9):
                why.append(f"{celsius:.0f} °C, its limit is {self._trips[zone]:.0f} °C")
        for cooler in self._coolers:
            if (_whole(self._text(f"{cooler}/cur_state")) or 0) > 0:
                why.append("its kernel slows the processor to cool it")
                break
        flags = self._text(_PI_THROTTLED)
        if flags is not None and re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", flags):
            now = int(flags, 16) & _PI_NOW
            if now & 1:
                why.append("under-voltage: the supply is too weak")
            if now & ~1:
                why.append("its firmware throttles it")
        count = _whole(
            self._text(f"{CPUS}/cpu{self.cpu}/thermal_throttle/core_throttle_count")
        )  # fmt: skip
        return Reading(self.clock_hz(), hottest, "; ".join(why), count)

    def facts(self) -> dict[str, str]:
        """What a table says of the board it was measured on; ``unknown`` where it does not tell."""
        now = self.reading()
        governor = self._text(f"{CPUS}/cpu{self.cpu}/cpufreq/scaling_governor")
        highest = _whole(self._text(f"{CPUS}/cpu{self.cpu}/cpufreq/scaling_max_freq"))
        load = _clean(self.read("/proc/loadavg"))
        found = {
            "governor": governor,
            "clock_khz": None if now.clock_hz is None else str(now.clock_hz // 1000),
            "clock_limit_khz": None if highest is None else str(highest),
            "temperature_c": None if now.temperature_c is None else f"{now.temperature_c:.1f}",
            "temperature_limit_c": None if self.trip_c is None else f"{self.trip_c:.0f}",
            "throttled": now.throttled or ("no" if self._watches_throttling() else None),
            "cpus_online": self._text(f"{CPUS}/online"),
            "load_average": None if load is None else " ".join(load.split()[:3]),
            "kernel": self._text("/proc/sys/kernel/osrelease"),
        }
        return {name: value or UNKNOWN for name, value in found.items()}

    def _watches_throttling(self) -> bool:
        return bool(
            self._coolers
            or self._trips
            or self._text(_PI_THROTTLED)
            or self._text(f"{CPUS}/cpu{self.cpu}/thermal_throttle/core_throttle_count")
        )


def governor_hint(facts: Mapping[str, str]) -> str:
    """What to do about a governor that lets the clock wander; empty if there is nothing to do."""
    governor = facts.get("governor", UNKNOWN)
    if governor == UNKNOWN or governor in STEADY_GOVERNORS:
        return ""
    return (
        f"the frequency governor is {governor!r}: times depend on what ran before; on the board, "
        "`sudo cpupower frequency-set -g performance` makes them steady"
    )


def parse_cpus(text: str | None) -> list[int]:
    """Processors of a list as Linux writes it.

    >>> parse_cpus("0-2,5")
    [0, 1, 2, 5]
    """
    found: list[int] = []
    for part in (text or "").strip().split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if match:
            found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return sorted(set(found))


def choose_cpu(read: Reader, allowed: frozenset[int] | None = None) -> int | None:
    """The processor to measure on: of the fastest kind, the last of it (interrupts like the first).

    None if the board does not tell which processors it has.
    """
    online = parse_cpus(read(f"{CPUS}/online"))
    if allowed is not None:
        online = [cpu for cpu in online if cpu in allowed]
    if not online:
        return None

    def speed(cpu: int) -> tuple[int, int]:
        capacity = _whole(read(f"{CPUS}/cpu{cpu}/cpu_capacity")) or 0
        clock = _whole(read(f"{CPUS}/cpu{cpu}/cpufreq/cpuinfo_max_freq")) or 0
        return capacity, clock

    # Two kinds of processors are the most there are; asking for all 64 of a server is no use.
    speeds = {cpu: speed(cpu) for cpu in online[:16]}
    best = max(speeds.values())
    return max(cpu for cpu, value in speeds.items() if value == best)


def allowed_cpus() -> frozenset[int]:
    """The processors this process may run on."""
    return frozenset(os.sched_getaffinity(0))
