"""What README.md and docs/ say is there: paths, targets of the Makefile, and commands that compose as they are written."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from microlatent import config
from tests.conftest import composed

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("benchmarks/", "conf/", "docs/", "requirements/", "scripts/", "src/", "tests/")


def code(page: Path) -> list[str]:
    """Return the code of a page, a line each: of its blocks, long lines joined, without comments; and between backticks."""
    text = page.read_text()
    blocks = "\n".join(re.findall(r"^ *```(?:bash|sh)?\n(.*?)```", text, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    prose = re.sub(r"^ *```.*?```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [*(line.split("  #")[0].strip() for line in blocks.splitlines()), *re.findall(r"`([^`\n]+)`", prose)]


def commands(page: Path) -> list[str]:
    """Return the lines that run one of the three commands."""
    return [line for line in dict.fromkeys(code(page)) if re.match(r"(python|torchrun [\w=-]+) (train|infer|analyze)\.py", line)]


def overrides(line: str, page: Path) -> tuple[str, list[str]]:
    """Return the entry point of a command and what it sets: a name for every <placeholder>, the first value of every sweep."""
    entry, typed = re.search(r"(\w+)\.py(.*)", re.sub(r"<[^>]*>", "x", line)).groups()
    typed = ["data.root=x" if word == "..." else word for word in shlex.split(typed) if not word.startswith("-")]
    given = {word.split("=")[0] for word in typed}
    if given & {"resume", "rerun"} or "--help" in line:
        typed = ["data.root=x", *(word for word in typed if not word.startswith("hydra.launcher."))]  # of the sweep's launcher
    if "run" in given and not given & {"data", "experiment"} and page.stem in config.REGISTRY["data"]:
        typed.append(f"data={page.stem}")  # a command takes it from the run
    return entry, [first(one) for one in OverridesParser.create().parse_overrides(typed)]


def first(one) -> str:
    """Return an override as it is, or with the first value of its sweep."""
    if not one.is_sweep_override():
        return one.input_line
    value = next(one.sweep_string_iterator()) if one.is_discrete_sweep() else one.value().start
    return f"{one.get_key_element()}={value}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_and_targets_exist(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    named = [word for line in code(page) for word in line.split() if word.startswith(FOLDERS) and not set(word) & set("<>*{}:")]
    scripts = re.findall(r"\bpython (\S+\.py)\b", text)
    absent = [link for link in links if not (page.parent / link).exists()]
    absent += [path for path in [*named, *scripts] if not (ROOT / path.rstrip(".,")).exists()]
    absent += [
        f"make {target}" for line in code(page) for target in re.findall(r"^make ([a-z-]+)", line) if target not in targets()
    ]
    absent += [module for module in re.findall(r"python -m (microlatent[\w.]*)", text) if find_spec(module) is None]
    assert not absent


def targets() -> list[str]:
    return re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem != "plugins"], ids=lambda page: page.stem
)  # test_plugins.py runs that one
def test_commands_compose(page):
    for line in commands(page):
        if not re.search("--config-dir|task=<", line):
            entry, words = overrides(line, page)
            try:
                composed(entry, *words)
            except Exception as error:
                raise AssertionError(f"{line}\n{error}") from error


def test_the_pages_hold_commands():
    assert sum(len(commands(page)) for page in PAGES) > 60
