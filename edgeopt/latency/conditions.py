"""What the machine says of itself while it measures: recorded with every table."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

_CPUFREQ = "sys/devices/system/cpu/cpu0/cpufreq"


def read_conditions(root: Path = Path("/")) -> dict[str, str]:
    """Governor, clock, temperature, load and software of this machine, as far as they show."""
    found = {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    for name, file in (
        ("governor", f"{_CPUFREQ}/scaling_governor"),
        ("clock_khz", f"{_CPUFREQ}/scaling_cur_freq"),
        ("temperature_millicelsius", "sys/class/thermal/thermal_zone0/temp"),
    ):
        try:
            text = (root / file).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        found[name] = "".join(c for c in text if c.isprintable())[:60]
    if hasattr(os, "getloadavg"):
        found["load_average"] = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return found
