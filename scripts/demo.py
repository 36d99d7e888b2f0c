"""The main jobs on a simulated specimen, as a user would type them, and what was found against what was planted."""

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

from microlatent.sweeps.sweep import find_sweeps

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "wells": (
        "infer.py task=assemble experiment=wells_demo task.patch_px=64",
        "train.py model=vqvae_z16 experiment=wells_demo trainer.epochs=50",
        "infer.py task=process run=latest",
        "analyze.py task=match run=latest",
        "analyze.py task=embed run=latest",
        "analyze.py task=cluster run=latest",
        "analyze.py task=report run=latest",
    ),
    "partitions": (
        "infer.py task=assemble experiment=partitions_demo",
        "train.py experiment=partitions_demo",
        "infer.py task=process run=latest",
        "infer.py task=reconstruct run=latest task.images=[S01/roi1,S02/roi1]",
        "analyze.py task=maps run=latest task.images=[S01/roi1,S02/roi1]",
        "analyze.py task=cluster run=latest task.images=[S01/roi1,S02/roi1]",
        "analyze.py task=outcome run=latest task.num_permutations=199",
        "analyze.py task=report run=latest",
    ),
    "kikuchi": (
        "infer.py task=assemble experiment=kikuchi_demo task.bin=2",
        "analyze.py task=bandcontrast experiment=kikuchi_demo",
        "train.py experiment=kikuchi_demo",
        "infer.py task=process run=latest",
        "analyze.py task=maps run=latest",
        "analyze.py task=associate run=latest task.num_surrogates=199 "
        "task.metrics=[pearson,spearman,kendall,dcorr,hsic,pp_spatial]",
        "analyze.py task=cluster run=latest task.num_clusters=24",
        "analyze.py task=report run=latest",
    ),
    "sweeps": (
        "infer.py task=assemble experiment=wells_demo task.patch_px=64",
        "train.py -m experiment=wells_demo model.latent_dim=8,16 seed=1,2 trainer.epochs=4 hydra.sweeper.n_jobs=2",
        "analyze.py task=compare task.runs={sweep}",
        "analyze.py task=report run={sweep}",
    ),
}
MINUTES = {"wells": 2.5, "partitions": 2.5, "kikuchi": 3, "sweeps": 1}  # on two cores, after the first run of each command


def main() -> None:
    """Run the commands one after the other and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", default="outputs")
    parser.add_argument("system", nargs="?", default="wells", choices=[*COMMANDS, "all"])
    arguments = parser.parse_args()
    systems, console = list(COMMANDS) if arguments.system == "all" else [arguments.system], Console()
    minutes = sum(MINUTES[system] for system in systems)
    console.print(
        f"The demo of {' and '.join(systems)} takes about {minutes:g} min on two cores and writes to {arguments.outputs}."
    )
    for system in systems:
        run(system, Path(arguments.outputs), console)


def run(system: str, outputs: Path, console: Console) -> None:
    """Run the commands of one system and report."""
    started = time.perf_counter()
    for line in COMMANDS[system]:
        line = line.format(sweep=next(iter(find_sweeps(outputs)[-1:]), ""))
        console.rule(f"python {line}", align="left")
        before = time.perf_counter()
        extra = [f"outputs={outputs}", *([f"name={system}-demo"] if "run=latest" in line else [])]
        done = subprocess.run([sys.executable, *shlex.split(line), *extra], cwd=ROOT, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        console.print(f"[dim]{time.perf_counter() - before:.0f} s[/dim]")
    if system == "sweeps":
        folder = find_sweeps(outputs)[-1]
    else:
        folder = max((outputs / f"{system}-demo").glob("*/process")).parent
    REPORTS[system](folder, console)
    console.print("Figures, and a page that has them all:")
    kept = (path for path in folder.glob("**/figures/*.png") if "wandb" not in path.parts)  # W&B has copies
    for path in sorted({*kept, *folder.glob("cluster/*.png"), *folder.glob("report/*.html")}):
        console.print(f"  {path}", soft_wrap=True)
    console.print(f"\nwhole demo of {system}: {time.perf_counter() - started:.0f} s")


def report_wells(run: Path, console: Console) -> None:
    """Print planted factors against what linear probes find, and matched trajectories."""
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


def report_partitions(run: Path, console: Console) -> None:
    """Print how well outcomes of held-out subjects are predicted, and the markers whose local correlation changes most."""
    prediction = pd.read_csv(run / "outcome" / "tables" / "prediction.csv")
    title = "Outcome of subjects held out (responders differ only in where their CD8 cells stand)"
    table = Table(title=title, title_justify="left")
    for name in ("from", "AUC, 95 % interval", "p, permuted", "accuracy"):
        table.add_column(name, justify="left" if name == "from" else "right", no_wrap=True)
    for row in prediction.itertuples():
        auc = f"{row.auc:.2f} ({row.auc_lo:.2f} to {row.auc_hi:.2f})"
        rest = [] if pd.isna(row.p_permutation) else [f"{row.p_permutation:.3f}", f"{row.balanced_accuracy:.2f}"]
        table.add_row(row.features, auc, *rest)
    console.print(table)
    markers = pd.read_csv(run / "outcome" / "tables" / "marker_differences.csv")
    console.print("Markers by how much their local correlation changes (planted: CD8 and Cytokeratins):")
    console.print("  " + ", ".join(markers["marker"].head(4)))


def report_kikuchi(run: Path, console: Console) -> None:
    """Print how well clusters find the planted grains, and which maps go with a latent beyond chance."""
    history = pd.read_csv(run / "history.csv").iloc[-1]
    console.print(f"Latent dimensions in use: {history['train_active_units']:.0f} of 16")
    agreement = pd.read_csv(run / "cluster" / "tables" / "agreement.csv")
    table = Table(title="Planted grains found by 24 clusters (adjusted Rand index)", title_justify="left")
    table.add_column("clusters of")
    table.add_column("ARI", justify="right")
    for row in agreement[agreement["column"] == "true_grain"].itertuples():
        table.add_row(row.clusters_of, f"{row.ari:.2f}")
    console.print(table)
    # Mutual information is left out: on maps of grains it calls too much.
    title = "Smallest q of six metrics, each against maps moved over the scan (O, Fe and band contrast are planted, Al is not)"
    table = Table(title=title, title_justify="left")
    table.add_column("map")
    scores = {path.parent.name: pd.read_csv(path) for path in sorted(run.glob("associate/*/scores.csv"))}
    for source in next(iter(scores.values()))["source"].unique():
        table.add_column(source, justify="right")
    for target, found in scores.items():
        best = found.filter(like="q_").min(axis=1).groupby(found["source"], sort=False).min()
        table.add_row(target, *(f"{q:.4f}" for q in best))
    console.print(table)


def report_sweeps(sweep: Path, console: Console) -> None:
    """Print what compare found between latent dimensions, over seeds."""
    found = pd.read_csv(sweep / "compare" / "tables" / "compare.csv").set_index(["configuration", "metric"])
    title = "Four short runs: mean and standard deviation over two seeds (compare.md has intervals of the differences)"
    table = Table(title=title, title_justify="left")
    table.add_column("configuration")
    metrics = ("best_score", "val_explained_variance", "parameters")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for name in found.index.unique("configuration"):
        rows = [found.loc[(name, metric)] for metric in metrics]
        table.add_row(name, *(f"{row['mean']:.2f} ± {row['std']:.2f}" if row["std"] else f"{row['mean']:.0f}" for row in rows))
    console.print(table)


REPORTS = {"wells": report_wells, "partitions": report_partitions, "kikuchi": report_kikuchi, "sweeps": report_sweeps}

if __name__ == "__main__":
    main()
