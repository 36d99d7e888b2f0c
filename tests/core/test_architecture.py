"""Which file may import which: read from the source, so that an import inside a function counts as well."""

import ast
import shutil
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "microlatent"
LAYERS = (  # a file or folder imports from its own line and from those above it
    "allocator files overrides progress provenance results schemas slurm",
    "analysis device distributed figures losses signals",
    "checkpoint config contract data manual metrics record run settling",
    "drawing models",
    "experiment identity report sweeps tracking training training_state validation",
    "systems tasks",
    "arguments command dashboard resume",
    "entry menu",
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
REVIEWS = ("dashboard", "menu", "report")  # they show what lies in folders
NEVER_IN_REVIEWS = ("experiment", "models", "training")


@cache
def names_in(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the dotted names that a file imports, and those that it holds as strings, as the registry does."""
    nodes = list(ast.walk(ast.parse(text)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"write imports in full: line {node.lineno} of\n{text}"
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    texts = {str(node.value).replace(":", ".") for node in nodes if isinstance(node, ast.Constant)}
    return frozenset(imported), frozenset(texts)


def arrows(src: Path) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return every module, as ``data.store``, with the modules that it imports, and with those that it names in strings."""
    paths = {".".join(path.relative_to(src).with_suffix("").parts).removesuffix(".__init__"): path for path in src.rglob("*.py")}

    def modules(names: frozenset[str], own: str) -> set[str]:
        found = set()
        for name in (name.removeprefix("microlatent.") for name in names if name.startswith("microlatent.")):
            while name and name not in paths:  # what a module holds
                name = name.rpartition(".")[0]
            found |= {name} - {"", own}
        return found

    both = {module: names_in(path.read_text()) for module, path in paths.items()}
    return tuple({module: modules(names[kind], module) for module, names in both.items()} for kind in (0, 1))


def violations(src: Path) -> Iterator[str]:
    """Yield the arrows that go where none may go, and the circles."""
    imports, texts = arrows(src)
    for source, target in sorted((module, other) for module in imports for other in imports[module] | texts[module]):
        (top, *below), (other, *of_other), arrow = source.split("."), target.split("."), f"{source} -> {target}"
        if missing := {top, other} - LAYER.keys():
            yield f"{arrow}: LAYERS has no place for {', '.join(missing)}"
        elif other == "systems" and top not in ("systems", "config"):
            yield f"{arrow}: nothing but the registry names a system"
        elif other == top == "systems" and below[:1] != of_other[:1]:
            yield f"{arrow}: a system imports another"
        elif LAYER[other] > LAYER[top] and target in imports[source]:
            yield f"{arrow}: {other} stands above {top}"
        elif top == "analysis" and other not in ("analysis", "files"):
            yield f"{arrow}: analysis takes arrays and imports nothing but files"
        elif top in REVIEWS and other in NEVER_IN_REVIEWS:
            yield f"{arrow}: {top} shows what lies in folders and runs no model"
    while True:
        try:
            return TopologicalSorter(imports).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]
            yield f"circle: {' -> '.join(circle)}"
            imports[circle[0]].discard(circle[1])


def test_imports_go_one_way():
    assert list(violations(SRC)) == []


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("systems/wells/match.py", "from microlatent.systems.kikuchi import maps", "a system imports another"),
        ("tasks/embed.py", "import microlatent.systems.mnist.source", "nothing but the registry names a system"),
        ("tasks/embed.py", "x = 'microlatent.systems.mnist.source:Digits'", "nothing but the registry names a system"),
        (
            "report/page.py",
            "def late():\n    from microlatent import models",
            "report shows what lies in folders and runs no model",
        ),
        ("analysis/pairs.py", "from microlatent.losses import Losses", "analysis takes arrays and imports nothing but files"),
        ("files.py", "from microlatent.config import register", "config stands above files"),
        ("files.py", "from microlatent import slurm, files_too", None),
        ("data/split.py", "def late():\n    import microlatent.data.source", "data.split"),
        ("novel.py", "from microlatent import files", "LAYERS has no place for novel"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, line, found):
    src = shutil.copytree(SRC, tmp_path / "microlatent", ignore=shutil.ignore_patterns("__pycache__"))
    with open(src / file, "a") as out:
        out.write(f"\n{line}\n")
    new = set(violations(src)) - set(violations(SRC))
    assert found in " ".join(new) if found else not new
