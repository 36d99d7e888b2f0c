"""What tasks left below a run, a section each: first what the task itself shows of it, then by what lies there.

The task's own part is the function that its declaration names (``config.register``, ``section``), imported when it is needed. Of
a plugin's task it is known where the plugin is loaded; what a run's folder names is never imported for a report.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from microlatent.config import REGISTRY, Choice, load
from microlatent.record import Record
from microlatent.report.blocks import Facts, Folded, Grid, Note, Picture, Section
from microlatent.report.pictures import Album
from microlatent.report.reading import folded_tables, guarded, problem_notes
from microlatent.report.values import label, number, plural, seconds
from microlatent.schemas import TaskConfig

FEW = 8  # numbers shown at once
MAX_FIGURES = 16  # of a task


def task_sections(folders: list[Path], root: Path, album: Album) -> Iterator[Section]:
    """Yield a section for each of the folders that tasks left, in the order in which a reader wants them."""
    for folder in sorted(folders, key=place):
        title = declared(folder.name).title
        yield from guarded(title, f"task-{folder.name}", partial(task_section, folder, root, album))


def place(folder: Path) -> tuple[int, int, str]:
    """Return what folders are sorted by: analyses first, then what they stand on, unknown ones last."""
    one = declared(folder.name)
    return {"analyze": 0, "infer": 1}.get(one.entry, 2), one.order, folder.name


def declared(name: str, data: str | None = None) -> Choice:
    """Return what a task says of itself, as far as it is known here."""
    return REGISTRY.get(f"task/{name}", {}).get(str(data)) or REGISTRY["task"].get(name) or Choice(name, TaskConfig)


def task_section(folder: Path, root: Path, album: Album) -> Section | None:
    """Return what a task's folder shows: its state if it did not finish, warnings, main results, figures, tables, numbers."""
    record = Record(folder)
    task = declared(folder.name, record.get("data", "name"))
    blocks: list[Any] = problem_notes(record)
    if record.state not in ("completed", None):
        why = record.status.get("reason")
        blocks.append(Note(f"This task is {record.state}{': ' + str(why) if why else '.'}", "warning"))
    blocks += [Note(line, "warning") for line in record.log_lines("WARNING")]
    main, shown = load(task.section)(folder, album) if task.section else ([], set())
    blocks += main
    pictures, left = figures_and_rest(folder, album, shown)
    blocks += [Grid(pictures)] if len(pictures) > 1 else pictures
    if left:
        blocks.append(Note(f"{plural(left, 'further figure')} in {folder.relative_to(root).as_posix()}/."))
    blocks += folded_tables([path for path in sorted((folder / "tables").glob("*.csv")) if path.name not in shown], folder)
    numbers = [(label(key), number(value)) for key, value in record.metrics.items()]
    if numbers:
        blocks.append(Facts(numbers) if len(numbers) <= FEW else Folded(f"All {len(numbers)} numbers", [Facts(numbers)]))
    spent = record.status.get("seconds")
    lead = f"From {folder.name}/{', made in ' + seconds(spent) if isinstance(spent, int | float) else ''}."
    return Section(f"task-{folder.name}", task.title, blocks, lead) if blocks else None


def figures_of(folder: Path, album: Album, skip: set[str] = frozenset()) -> list[Picture]:
    """Return the figures of a folder as pictures, the first few."""
    return figures_and_rest(folder, album, skip)[0]


def figures_and_rest(folder: Path, album: Album, skip: set[str] = frozenset()) -> tuple[list[Picture], int]:
    """Return the first figures of a folder (in ``figures/`` or below it; else one deeper) and how many there are beside."""
    found = sorted((folder / "figures").glob("*.png")) + sorted(folder.glob("*.png"))
    deeper = sorted(path for path in folder.glob("*/*.png") if path.parent.name not in ("figures", "wandb"))
    own = not (folder / "checkpoints").is_dir()  # below a training run the folders are the tasks', with sections of their own
    found += deeper if own and not found else []
    kept = [path for path in found if not any(path.match(pattern) for pattern in skip)]
    rest = len(kept[MAX_FIGURES:]) + (len(deeper) if own and deeper and deeper[0] not in found else 0)
    names = [words(path, folder) for path in kept[:MAX_FIGURES]]
    return [album.add(path, f"Figure {name}.", name) for path, name in zip(kept, names, strict=False)], rest


def words(path: Path, within: Path) -> str:
    """Return a figure's file name in words, after the folder that it is alone in: of a subject, for example."""
    if path.parent not in (within, within / "figures"):
        return f"{path.parent.name} {path.stem}".replace("_", " ")
    return path.stem[:1].upper() + path.stem[1:].replace("_", " ")
