"""A simulated specimen's folder: written whole or not at all, and kept if it is the one that is wanted."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from microlatent.files import write_json


def write_once(folder: str | Path, wanted: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Return the folder of a specimen of the arguments ``wanted``; ``write`` makes it, under another name, where it is not there.

    Raises
    ------
    ValueError
        If the folder exists and holds anything else.
    """
    folder = Path(folder)
    if folder.exists():
        about = folder / "specimen.json"
        found = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else None
        if found == wanted:
            return folder
        raise ValueError(
            f"{folder} holds {'a simulated specimen of ' + str(found) if found else 'other files'}, but a specimen of {wanted} "
            f"was to be written there. Remove the folder or choose another one."
        )
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        write(partial)
        write_json(wanted, partial / "specimen.json")
        os.rename(partial, folder)
    except OSError:
        if not (folder / "specimen.json").is_file():  # another process was first: its specimen is the same
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
