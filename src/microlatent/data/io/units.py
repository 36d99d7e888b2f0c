"""Units of length and time as files write them, in micrometres and minutes."""

UM = {"um": 1.0, "\u00b5m": 1.0, "\u03bcm": 1.0, "micrometer": 1.0, "micron": 1.0, "microns": 1.0}
UM |= {"nm": 1e-3, "nanometer": 1e-3, "angstrom": 1e-4, "mm": 1e3, "millimeter": 1e3, "meter": 1e6}
MINUTES = {"s": 1 / 60, "second": 1 / 60, "sec": 1 / 60, "ms": 1 / 60000, "millisecond": 1 / 60000, "min": 1.0, "minute": 1.0}
MINUTES |= {"h": 60.0, "hour": 60.0, "day": 1440.0}
