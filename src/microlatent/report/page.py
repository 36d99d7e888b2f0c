"""A folder as one HTML page that opens from disk: no request leaves it, and what users wrote in it is inert.

The page's policy lets two scripts run, known by their hashes: its own, and Plotly once it is unpacked. So even a name that
slipped through the escaping could not act.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from microlatent.record import Record, is_sweep
from microlatent.report import run_page, sweep_page
from microlatent.report.blocks import Folded, Grid, Plot
from microlatent.report.jobs import read_jobs
from microlatent.report.pictures import Album
from microlatent.report.sweep_data import views
from microlatent.sweeps import sweep

HERE = Path(__file__).parent
SCRIPTS = ("page.js", "tables.js", "charts.js", "parallel.js", "sweep.js")
MAX_BYTES = 8_000_000  # of a page
RESERVE = 400_000  # of a page: text, tables, curves beyond those counted
SWEEP_IMAGE_PX = 720  # figures side by side are half as wide as the page at most
MAX_POINTS, MAX_IMAGE_PX = 3000, 1000


def render(folder: Path, max_points: int = MAX_POINTS, max_image_px: int = MAX_IMAGE_PX) -> str:
    """Return the page about a run or a sweep.

    The same folder gives the same page, byte for byte. Whatever is missing is left out; what cannot be read is named in the page.

    Parameters
    ----------
    folder
        A run's or a sweep's; it is only read.
    max_points
        Points of a scatter plot at most, drawn from the run's seed.
    max_image_px
        Longer side of an image at most.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist. Name the folder of a run or of a sweep below outputs/.")
    if is_sweep(folder):
        jobs = read_jobs(folder)
        album = Album(min(max_image_px, SWEEP_IMAGE_PX))
        sections = list(sweep_page.sections(jobs, album))
        summary, head = sweep_page.sweep_head(jobs)
        data, state = {"sweep": views(jobs) if jobs.rows else None}, ""
        what, title = ("Study" if jobs.plan.study else "Sweep"), f"{folder.parent.name} / {folder.name}"
    else:
        record, album = Record(folder), Album(max_image_px)
        sections = list(run_page.sections(record, album, max_points))
        summary, head = run_page.run_head(record)
        data, state, title = {"sweep": None}, record.state or "unknown", run_page.run_title(folder)
        whole = sweep.of_job(folder)
        what = f"Run of sweep {whole.name}" if whole else "Run"
    plots = {plot.key: plot.spec for section in sections for plot in plots_in(section.blocks)}
    code = as_json(data | {"plots": plots})
    packed, digest = library() if plots or data["sweep"] else ("", "")
    album.budget = max(0, MAX_BYTES - RESERVE - len(packed) - len(code))
    album.develop()
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    from markupsafe import Markup

    return template().render(
        title=title,
        what=what,
        state=state,
        summary=summary,
        head=head,
        sections=sections,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        data=Markup(code),
        library=Markup(packed),
        policy=policy(sha256(script.encode()), digest),
    )


def plots_in(blocks: list[Any]) -> Iterator[Plot]:
    """Yield the plots among blocks, those inside other blocks too."""
    for block in blocks:
        if isinstance(block, Plot):
            yield block
        elif isinstance(block, Grid | Folded):
            yield from plots_in(block.blocks)


def as_json(value: Any) -> str:
    """Return JSON that may stand inside a script element: no markup can end it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def policy(*digests: str) -> str:
    """Return the Content-Security-Policy: these scripts, inline styles and pictures in the page; nothing from elsewhere."""
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests if digest)
    rest = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {allowed}; {rest}"


def sha256(text: bytes) -> str:
    """Return a digest as a policy writes it."""
    return base64.b64encode(hashlib.sha256(text).digest()).decode()


@functools.cache
def library() -> tuple[str, str]:
    """Return Plotly's JavaScript, compressed and in base64, and the digest of what it unpacks to."""
    found = importlib.util.find_spec("plotly")  # its Python is not imported: the file is all that is needed
    text = (Path(found.submodule_search_locations[0]) / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(text, 9, mtime=0)).decode(), sha256(text.decode().encode())


@functools.cache
def template() -> Any:
    """Return the page's template, which escapes whatever it is given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")
