"""What a task would write, and what it writes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Preflight:
    """What a command would do: said by ``check=true``."""

    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    memory_mb: float = 0.0
    disk_mb: float = 0.0
    seconds: float | None = None
    notes: list[str] = field(default_factory=list)
