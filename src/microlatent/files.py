"""Write a file whole or not at all: temporary name in the same folder, flush to disk, rename."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on any failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, because writers such as matplotlib and anndata choose the format by it.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def same_file(source: str | Path, path: str | Path) -> None:
    """Give a whole file a second name, atomically; a copy where the file system has no hard links."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        os.link(source, temporary)
        os.replace(temporary, path)
    except OSError:
        with atomic(path) as temporary:
            shutil.copyfile(source, temporary)
    finally:
        temporary.unlink(missing_ok=True)


def create_text(text: str, path: str | Path) -> bool:
    """Write a text file whole, unless there is one; of several processes that try, one is told True."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    write_text(text, temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def write_text(text: str, path: str | Path) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: Any, path: str | Path) -> None:
    """Write indented JSON atomically."""
    write_text(json.dumps(value, indent=2, default=str) + "\n", path)


def write_csv(table: Any, path: str | Path) -> None:
    """Write a pandas table atomically, without its index."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def write_pickle(value: Any, path: str | Path) -> None:
    """Write a pickle (protocol 4, as the wells reference) atomically."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(value, file, protocol=4)
