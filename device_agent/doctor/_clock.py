"""Whether the clock tells the time: boards without a battery start in the past."""

import ctypes
import datetime as dt

from device_agent.doctor._check import Check


FIRST_YEAR = 2026
"""The year in which this was written: no clock before it is right."""

LAST_YEAR = 2100
_UNSYNCHRONIZED = 5
_MOST_BYTES = 1024
_SET_NTP = "sudo timedatectl set-ntp true"


def clock_check(now: dt.datetime | None = None, *, synchronized: bool | None = None) -> Check:
    """Check that the year is plausible.

    Training does not read the calendar, so a wrong clock is no error.

    Args:
        now: the time; by default this machine's.
        synchronized: whether the kernel counts the clock as synchronized; None: it does not say.
    """
    moment = dt.datetime.now(dt.UTC) if now is None else now
    state = {True: "synchronized", False: "not synchronized", None: "synchronization unknown"}
    found = f"{moment:%Y-%m-%d %H:%M} UTC, {state[synchronized]}"
    values: dict[str, float | str | bool | None] = {
        "utc": moment.isoformat(timespec="seconds"),
        "synchronized": synchronized,
    }
    if not FIRST_YEAR <= moment.year < LAST_YEAR:
        return Check(
            name="clock",
            status="warning",
            found=f"{found}; the year {moment.year} cannot be: logs will mislead, training is the "
            "same",
            fix=f"{_SET_NTP} || sudo date -s 'YYYY-MM-DD hh:mm'",
            values=values,
        )
    if synchronized is False:
        return Check(name="clock", status="note", found=found, fix=_SET_NTP, values=values)
    return Check(name="clock", status="ok", found=found, values=values)


def clock_synchronized() -> bool | None:
    """Return whether the kernel counts its clock as synchronized, None where it does not say.

    Asked of adjtimex(2) with no change wanted: its answer needs no service, no bus, no network.
    """
    try:
        call = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    # struct timex begins with the modes; zero of them only reads. It has 208 bytes on 64 bit.
    state = call(ctypes.create_string_buffer(_MOST_BYTES))
    return None if state < 0 else bool(state != _UNSYNCHRONIZED)
