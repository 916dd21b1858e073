"""How hot the machine is, from the kernel's thermal zones.

https://docs.kernel.org/driver-api/thermal/sysfs-api.html: temperatures and trip points in
thousandths of a degree Celsius. At a ``passive`` point the processor is slowed, at a ``hot`` one
the driver is told, at a ``critical`` one the machine is switched off.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from device_agent.doctor._check import Check, one_line
from device_agent.doctor._machine import read_text


HOT = 80.0
"""Degrees Celsius, for a zone without trip points: a Raspberry Pi slows down from here on."""

NEAR = 5.0
"""Degrees Celsius below the critical point that count as too near."""

_PLAUSIBLE = (-40.0, 150.0)
_NO_SENSOR = {"PMIC-Die"}
"""Zones that show a constant: on Jetson boards this one always says 100."""


@dataclass(frozen=True)
class Zone:
    """One sensor: its name, its temperature and its lowest points, in degrees Celsius."""

    kind: str
    celsius: float
    slowed: float | None
    critical: float | None


def thermal_zones(root: Path = Path("/")) -> list[Zone]:
    """Return the zones that show a plausible temperature, hottest first."""
    zones = []
    for folder in sorted((root / "sys" / "class" / "thermal").glob("thermal_zone*")):
        celsius = _celsius(folder / "temp")
        kind = one_line(read_text(folder / "type")) or folder.name
        if celsius is None or kind in _NO_SENSOR:
            continue
        points: dict[str, list[float]] = {}
        for path in folder.glob("trip_point_*_type"):
            at = _celsius(path.with_name(path.name.replace("_type", "_temp")))
            if at is not None and at > 0:  # drivers write 0 or less for a point that is not used
                points.setdefault(read_text(path).strip(), []).append(at)
        slowed = points.get("passive", []) + points.get("hot", [])
        critical = points.get("critical", [])
        zones.append(Zone(kind, celsius, min(slowed, default=None), min(critical, default=None)))
    return sorted(zones, key=lambda zone: -zone.celsius)


def thermal_check(root: Path = Path("/")) -> Check:
    """Check whether a zone is so hot that the machine slows down or is about to switch off."""
    zones = thermal_zones(root)
    if not zones:
        return Check(
            name="temperature",
            status="note",
            found="unknown: no thermal zone to read, as in many containers and virtual machines",
            values={"celsius": None, "zones": 0},
        )
    fatal = [z for z in zones if z.critical is not None and z.celsius >= z.critical - NEAR]
    slow = [z for z in zones if z.celsius >= (HOT if z.slowed is None else z.slowed)]
    zone = (fatal or slow or zones)[0]
    found = f"{zone.celsius:.0f} °C ({zone.kind})"
    points = [
        f"{what} at {at:.0f} °C"
        for what, at in (("slowed", zone.slowed), ("switched off", zone.critical))
        if at is not None
    ]
    found += "".join(f", {point}" for point in points)
    values: dict[str, float | str | bool | None] = {
        "celsius": zone.celsius,
        "zone": zone.kind,
        "zones": len(zones),
        "slowed_celsius": zone.slowed,
        "critical_celsius": zone.critical,
    }
    if fatal:
        return Check(
            name="temperature",
            status="error",
            found=f"{found}; the machine is about to switch itself off: cool it before it trains",
            values=values,
        )
    if slow:
        return Check(
            name="temperature",
            status="warning",
            found=f"{found}; the processor runs slower to cool down: give it air or fewer threads",
            fix="edge-stl train PLAN IMAGES -o OUT --threads 1",
            values=values,
        )
    return Check(name="temperature", status="ok", found=found, values=values)


def _celsius(path: Path) -> float | None:
    text = read_text(path).strip()
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        return None
    celsius = int(text) / 1000
    return celsius if _PLAUSIBLE[0] <= celsius <= _PLAUSIBLE[1] else None
