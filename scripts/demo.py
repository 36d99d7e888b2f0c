"""The main job on the simulated specimen, as a user would type it, and what was found against what was planted."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "infer.py task=assemble experiment=wells_demo task.patch_px=64",
    "train.py model=vqvae_z16 experiment=wells_demo",
    "infer.py task=process run=latest",
    "analyze.py task=match run=latest",
    "analyze.py task=embed run=latest",
)


def main() -> None:
    """Run the commands one after the other and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", default="outputs")
    outputs = Path(parser.parse_args().outputs)
    console, started = Console(), time.perf_counter()
    for line in COMMANDS:
        console.rule(f"python {line}", align="left")
        before = time.perf_counter()
        extra = [f"outputs={outputs}", *(["name=wells-demo"] if "run=latest" in line else [])]
        done = subprocess.run([sys.executable, *shlex.split(line), *extra], cwd=ROOT, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        console.print(f"[dim]{time.perf_counter() - before:.0f} s[/dim]")
    run = max((outputs / "wells-demo").glob("*/process")).parent
    report(run, console)
    console.print(f"\nwhole demo: {time.perf_counter() - started:.0f} s")


def report(run: Path, console: Console) -> None:
    """Print planted factors against what linear probes find, matched trajectories, and the figures."""
    probes = pd.read_csv(run / "embed" / "tables" / "probes.csv")
    title = "Planted factors read out by a linear probe on held-out trajectories: R2 and 95 % interval"
    table = Table(title=title, title_justify="left")
    for name in ("planted factor", "latents", "PCA of pixels, same width"):
        table.add_column(name, justify="left" if name == "planted factor" else "right")
    for row in probes.itertuples():
        cells = [f"{row.r2_latent:.2f} ({row.lo_latent:.2f} to {row.hi_latent:.2f})"]
        cells += [f"{row.r2_pca_pixels:.2f} ({row.lo_pca_pixels:.2f} to {row.hi_pca_pixels:.2f})"]
        table.add_row(row.column, *cells)
    console.print(table)
    matched = json.loads((run / "match" / "status.json").read_text())["metrics"]
    for key, value in matched.items():
        console.print(f"  {key}: {value:.4g}")
    console.print("Figures:")
    for path in sorted(run.glob("**/figures/*.png")):
        console.print(f"  {path}", soft_wrap=True)


if __name__ == "__main__":
    main()
