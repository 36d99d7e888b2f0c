"""Upload to W&B what runs below a folder logged offline, oldest first; what is uploaded already is left out.

Without a key (``wandb login``, or WANDB_API_KEY) nothing is uploaded: the list says what would be. A run that is still running
is left alone. Exit codes: 0 done, or listed; 1 an upload failed; 2 bad input.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from microlatent.record import Record
from microlatent.tracking import PLACES, STAGED, has_key

FAILED, BAD_INPUT = 1, 2
REACH_S = 15.0  # W&B's own command waits for its host without end
UPLOAD_S = 3600.0  # one run with its artifacts
EMPTY_BYTES = 7  # a log's header: the run was killed before W&B wrote for the first time, after 15 s
CUT_OFF = "incomplete record"  # W&B's words for a log of a run that was killed later


class Offline(NamedTuple):
    """One W&B run that was logged offline: a file, and one more for every time that it was resumed."""

    folder: Path  # the run folder
    files: list[Path]  # not uploaded yet, oldest first

    @property
    def megabytes(self) -> float:
        """Return the size of the log, its images and tables, and its artifacts."""
        folders = [*(file.parent for file in self.files), self.folder / "wandb" / "data"]
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """List what is to be uploaded, and upload it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", default="outputs", help="folder of the runs, a sweep, or one run")
    parser.add_argument("--project", help="upload to this project instead of the runs' own (logger.project)")
    parser.add_argument("--entity", help="upload to this user or team instead of the runs' own (logger.entity)")
    parser.add_argument("--dry-run", action="store_true", help="list only")
    arguments = parser.parse_args()
    outputs = Path(arguments.outputs)
    if not outputs.is_dir():
        print(f"error: --outputs {outputs} is no folder. Name the folder of your runs.", file=sys.stderr)
        sys.exit(BAD_INPUT)
    options = [word for key in ("project", "entity") if (value := getattr(arguments, key)) for word in (f"--{key}", value)]
    found, uploaded = search(outputs)
    ready = [one for one in found if Record(one.folder).state != "running"]
    for one in found:
        if one not in ready:
            print(f"still running, left alone: {one.folder}")
    print(f"{len(ready)} runs below {outputs} to upload, {uploaded} uploaded before.")
    if arguments.dry_run or not ready or not has_key():
        for one in ready:
            print(f"would upload {one.folder} ({one.megabytes:.1f} MB):")
            for file in one.files:
                print(f"  {shlex.join(command(file, options))}")
        if ready and not has_key():
            print("Nothing was uploaded: there is no W&B key. Get one with wandb login, or set WANDB_API_KEY.")
        return
    refuse_unreachable()
    failures = {}
    for number, one in enumerate(ready, 1):
        print(f"[{number}/{len(ready)}] {one.folder} ({one.megabytes:.1f} MB)", flush=True)
        if error := upload(one, options):
            failures[one.folder] = error
            print(f"  failed: {error}", flush=True)
    print(f"{len(ready) - len(failures)} runs uploaded, {len(failures)} failed.")
    if failures:
        print("Try those again with the same command; W&B's own account is in their wandb/debug-cli*.log.", file=sys.stderr)
        sys.exit(FAILED)


def search(outputs: Path) -> tuple[list[Offline], int]:
    """Return the runs below a folder that are not uploaded, and the number of those that are."""
    runs: dict[Path, list[Path]] = {}
    files = sorted(outputs.glob("**/wandb/offline-run-*/run-*.wandb"), key=lambda path: path.parent.name)  # holds the time
    for file in files:
        runs.setdefault(file.parents[2], []).append(file)
    runs = {folder: [file for file in logs if file.stat().st_size > EMPTY_BYTES] for folder, logs in runs.items()}
    pending = {folder: [file for file in logs if not mark(file).exists()] for folder, logs in runs.items()}
    found = [Offline(folder, logs) for folder, logs in pending.items() if logs]
    return found, sum(map(bool, runs.values())) - len(found)


def mark(file: Path) -> Path:
    """Return the file that W&B leaves beside a log which it has uploaded."""
    return file.with_suffix(".wandb.synced")


def command(file: Path, options: list[str]) -> list[str]:
    """Return the command that uploads a log."""
    return [sys.executable, "-m", "wandb", "sync", *options, str(file.parent.absolute())]


def upload(one: Offline, options: list[str]) -> str | None:
    """Upload the logs of a run in order of time, which makes one run of them; return why that failed, or None."""
    folder = one.folder.absolute()
    kept = {"WANDB_DIR": folder, "WANDB_CACHE_DIR": folder / "wandb" / "cache", "WANDB_DATA_DIR": folder / "wandb" / "data"}
    env = os.environ | {key: str(path) for key, path in kept.items()} | {"WANDB_ERROR_REPORTING": "false"}
    try:
        with where_logged(folder):
            for file in one.files:
                line, nothing = command(file, options), subprocess.DEVNULL
                done = subprocess.run(line, env=env, stdin=nothing, capture_output=True, text=True, timeout=UPLOAD_S, check=False)
                said = [text.removeprefix("wandb: ").strip() for text in (done.stdout + done.stderr).splitlines() if text.strip()]
                if any(CUT_OFF in text for text in said):
                    print("  its log is cut off, since the run was killed; all before that is uploaded.")
                    mark(file).touch()
                if not mark(file).exists():  # the command ends with 0 either way
                    errors = [text for text in said if "error" in text.lower()] or said[-1:]
                    return " / ".join(errors) or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        return f"no end after {UPLOAD_S:.0f} s"
    except OSError as error:
        return f"its artifacts cannot be put back where they were logged ({error}). Move the run folder back there."
    return None


@contextmanager
def where_logged(folder: Path) -> Iterator[None]:
    """Let W&B find the artifacts of a run that was renamed or moved since.

    It looks for them where they were logged, by absolute path, and leaves out without a word what is not there: meanwhile there
    are links.
    """
    staged, links, made = folder / STAGED, [], []
    places = folder / "wandb" / PLACES
    before = set(places.read_text().splitlines() if places.is_file() else [])
    try:
        for link in [Path(place) / STAGED / file.name for place in before for file in staged.glob("*")]:
            if link.exists():
                continue
            new = [parent for parent in link.parents if not parent.exists()]
            link.parent.mkdir(parents=True, exist_ok=True)
            made += new
            link.unlink(missing_ok=True)  # a broken one, of an upload that was killed
            link.symlink_to(staged / link.name)
            links.append(link)
        yield
    finally:
        for link in links:
            link.unlink()
        for parent in sorted(made, key=lambda path: -len(path.parts)):
            parent.rmdir()


def refuse_unreachable() -> None:
    """End the command if no W&B host answers: each upload would wait for it."""
    host = os.environ.get("WANDB_BASE_URL")
    if host is None:
        import wandb

        host = wandb.setup().settings.base_url
    try:
        urllib.request.urlopen(host, timeout=REACH_S)
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        print(
            f"error: {host} does not answer ({error}), so nothing was uploaded. Try again with a network, or set WANDB_BASE_URL "
            "to your own host.",
            file=sys.stderr,
        )
        sys.exit(FAILED)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped. What was uploaded is marked; the same command goes on.")
