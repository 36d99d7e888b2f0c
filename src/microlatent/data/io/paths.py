"""Files found by a pattern of paths, such as ``images/{well}-{site}_t{frame}.tif`` or ``{subject}/{image}.*``.

``{name}`` is text that means something, ``*`` anything without a slash, and ``**`` any folders. Which names there are and what
each may hold is the reader's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from microlatent.data.io.ome_zarr.metadata import is_zarr

TEXT, NUMBER = r"[^/]+?", r"\d+"


def find_paths(root: Path, pattern: str, key: str, fields: dict[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the files and zarr folders below ``root`` whose path matches, with the fields read from it, in natural order.

    Parameters
    ----------
    key
        The setting that holds the pattern, for messages.
    fields
        Expression of every field that the pattern may have: ``TEXT`` or ``NUMBER``.

    Raises
    ------
    ValueError
        The pattern has an unknown field, or leaves the folder.
    """
    unknown = set(re.findall(r"{(.*?)}", pattern)) - set(fields)
    if unknown or pattern.startswith(("/", "..")):
        what = f"the field {{{min(unknown)}}}" if unknown else "a path outside data.root"
        raise ValueError(
            f"{key}={pattern!r} has {what}, but knows {named(fields)} and * below data.root. "
            f"Write * for text that means nothing, and a path relative to data.root."
        )
    steps = [_regex(step, fields) for step in pattern.split("/")]
    yield from sorted(_descend(root, pattern.split("/"), steps, {}), key=lambda match: natural(str(match[0])))


def named(fields: dict[str, str]) -> str:
    """Return the fields as a pattern writes them, for messages."""
    return ", ".join("{" + name + "}" for name in fields)


def nothing_found(root: Path, pattern: str, key: str, fields: dict[str, str]) -> FileNotFoundError:
    """Return the error that says what is there instead of what the pattern asks for."""
    there = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    some = ", ".join(there[:: max(1, len(there) // 4)][:4])
    return FileNotFoundError(
        f"{key}={pattern!r} matches nothing below {root}. It holds {len(there)} files"
        + (f", such as {some}" if there else "")
        + f". Write the pattern with {named(fields)} and *."
    )


def natural(text: str) -> list[tuple[bool, int, str]]:
    """Return a sort key that puts t9 before t10."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", text) if part]


def _regex(step: str, fields: dict[str, str]) -> re.Pattern[str]:
    """Return the expression of one step of a path; a field that comes again must have the same text."""
    parts, seen = [], set()
    for part in re.split(r"({\w+}|\*)", step):
        name = part[1:-1]
        if part == "*":
            parts.append("[^/]*")
        elif part.startswith("{") and name in fields:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{fields[name]})")
            seen.add(name)
        else:
            parts.append(re.escape(part))
    return re.compile("".join(parts))


def _descend(folder: Path, names: list[str], steps: list[re.Pattern[str]], found: dict[str, str]) -> Iterator[tuple[Path, dict]]:
    """Match one step of the pattern against the names in a folder; hidden names are passed over."""
    if names[0] == "**":
        yield from _descend(folder, names[1:], steps[1:], found) if len(names) > 1 else ()
    try:
        there = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "zarr.json")
    except PermissionError as error:
        raise PermissionError(f"The folder {folder} cannot be read ({error.strerror}). Ask for the right to read it.") from error
    for path in there:
        if names[0] == "**":
            if path.is_dir() and not is_zarr(path):
                yield from _descend(path, names, steps, found)
            continue
        match = steps[0].fullmatch(path.name)
        if not match or any(found.get(name, value) != value for name, value in match.groupdict().items()):
            continue
        fields = found | match.groupdict()
        if len(steps) > 1 and path.is_dir():
            yield from _descend(path, names[1:], steps[1:], fields)
        elif len(steps) == 1 and (path.is_file() or is_zarr(path)):
            yield path, fields
