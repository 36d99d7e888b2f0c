"""What was run and from what: the command, every setting with its meaning, code, data, machine, and the run it stands on."""

from __future__ import annotations

import shlex
from typing import Any

from microlatent.overrides import key_of
from microlatent.record import Record
from microlatent.report.blocks import Cell, Code, Facts, Folded, Section, Table
from microlatent.report.values import moment, number, plural, seconds
from microlatent.sweeps import sweep

DIFF_LINES = 200
PARENTS = ("run", "resume", "rerun", "init_from")


def origin(record: Record) -> Section:
    """Return the section; what a folder does not tell is left out."""
    words = command(record)
    blocks: list[Any] = [Code("python " + shlex.join(str(word) for word in words))] if words else []
    blocks.append(Facts(facts(record)))
    if record.config:
        blocks.append(Folded("Configuration", [configuration(record)]))
    fingerprints = (record.provenance.get("data") or {}).get("fingerprints") or {}
    if fingerprints:
        table = Table(["file", "fingerprint"], [[Cell(str(k)), Cell(str(v))] for k, v in fingerprints.items()], [False, False])
        blocks.append(Folded(f"Fingerprints of {plural(len(fingerprints), 'data file')}", [table]))
    versions = record.provenance.get("versions") or {}
    if versions:
        table = Table(["package", "version"], [[Cell(str(k)), Cell(str(v))] for k, v in versions.items()], [False, False])
        blocks.append(Folded("Versions", [table]))
    diff = str((record.provenance.get("git") or {}).get("diff") or "")
    if diff.strip():
        lines = diff.splitlines()
        cut = f"\n... {len(lines) - DIFF_LINES:,} further lines in provenance.json" if len(lines) > DIFF_LINES else ""
        blocks.append(Folded("Uncommitted changes", [Code("\n".join(lines[:DIFF_LINES]) + cut, "Difference")], printed=False))
    if log := record.log_tail():
        blocks.append(Folded("End of the log", [Code("\n".join(log), "Log")], printed=False))
    return Section("origin", "What was run", blocks)


def command(record: Record) -> list[str]:
    """Return what was typed; of a sweep's job what would make this one run, since the sweep's command made them all."""
    within = sweep.of_job(record.path)
    if within is not None and record.overrides:
        return [f"{sweep.read_plan(within).entry}.py", *record.overrides]
    return record.provenance.get("command") or []


def facts(record: Record) -> list[tuple[str, str]]:
    """Return terms and values, in the order in which a reader asks."""
    status, provenance = record.status, record.provenance
    data, machine = provenance.get("data") or {}, provenance.get("hardware") or {}
    shape = " x ".join(str(side) for side in data.get("shape_px") or [])
    items = [
        ("Folder", str(record.path)),
        ("Started", moment(status.get("started") or provenance.get("time"))),
        ("Ended" if record.state == "completed" else "Last update", moment(status.get("updated"))),
        ("Working time", seconds(status["seconds"]) if isinstance(status.get("seconds"), int | float) else ""),
        ("Seed", number(record.get("seed"))),
        *((f"From {key}", str(record.get(key))) for key in PARENTS if record.get(key)),
        ("Data", " ".join(str(v) for v in (record.get("data", "name"), record.get("data", "store")) if v)),
        ("Channels", ", ".join(str(one) for one in data.get("channels") or [])),
        ("Patches", f"{shape} px" if shape else ""),
        ("Split", f"by {data['split_by']}, hash {str(data.get('split_hash', ''))[:12]}" if data.get("split_by") else ""),
        ("Code", commit(provenance.get("git") or {})),
        ("Machine", machine_words(machine, str(status.get("host", "")))),
    ]
    return [(term, value) for term, value in items if value and value != number(None)]


def commit(git: dict[str, Any]) -> str:
    """Return the commit and whether anything was changed since."""
    if not git.get("commit"):
        return "no commit known: the code was not under version control" if git else ""
    changed = uncommitted(git)
    return f"commit {str(git['commit'])[:12]}, " + (changed if changed else "no uncommitted changes")


def uncommitted(git: dict[str, Any]) -> str:
    """Return what was changed since the commit, in words; empty where nothing was."""
    lines = sum(line[:1] in "+-" and line[:3] not in ("+++", "---") for line in str(git.get("diff") or "").splitlines())
    untracked = len(git.get("untracked") or [])
    words = [f"{plural(lines, 'line')} changed but not committed"] if lines else []
    return " and ".join(words + ([f"{plural(untracked, 'file')} unknown to git"] if untracked else []))


def machine_words(machine: dict[str, Any], host: str) -> str:
    """Return processor, cores, memory and GPU in one line."""
    cores, memory = machine.get("cores"), machine.get("memory_gb")
    parts = [host, str(machine.get("processor") or ""), plural(cores, "core") if isinstance(cores, int) else ""]
    parts += [f"{number(memory)} GB" if memory else "", str(machine.get("gpu") or "")]
    return ", ".join(part for part in parts if part)


def configuration(record: Record) -> Table:
    """Return every setting with its value and its meaning; those that were typed are marked."""
    from microlatent.config import flat

    typed = set(map(key_of, record.overrides))
    words, rows = meanings(record.config), []
    for key, value in flat(record.config).items():
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        rows.append(
            [
                Cell(str(key)),
                Cell(shown),
                Cell("typed" if key in typed or key.partition(".name")[0] in typed else ""),
                Cell(words.get(key, "")),
            ]
        )
    return Table(["setting", "value", "set by", "meaning"], rows, [False] * 4, search=True)


def meanings(config: dict[str, Any]) -> dict[str, str]:
    """Return the meaning of each setting, as far as the choices are known here (those of plugins may not be)."""
    from microlatent import manual
    from microlatent.config import GROUPS, choice, task_choice
    from microlatent.schemas import Settings

    found = dict(manual.meanings(Settings))
    for group in GROUPS:
        values = config.get(group)
        if not isinstance(values, dict):
            continue
        try:
            data = (config.get("data") or {}).get("name")
            one = task_choice(values.get("name"), data) if group == "task" else choice(group, values.get("name"))
        except ValueError:
            continue
        found |= {f"{group}.{key}": words for key, words in manual.meanings(one.schema).items()}
    return found
