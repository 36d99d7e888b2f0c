"""Speed and memory against the references' methods: ``make bench`` or ``python benchmarks/bench.py [--device cuda]``.

Prints patches per second (median and quartiles) and ratios. Ways that are compared take turns in one process; allocator
settings are a process's own, so each has its process, and these take turns too.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))  # the project's folder, also when this file is run as it is

from benchmarks.timing import in_process, spread

console = Console(width=130)


def table(title: str, *columns: str) -> Table:
    """Return an empty table with numbers to the right."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left", overflow="fold")
    return made


def network(threads: int, passes: int, rounds: int) -> None:
    """Training step and encoding, each under the default and the tuned allocator."""
    results: dict[str, dict] = {}
    for number in range(passes):
        for setting in ("default", "tuned"):
            extra = ["--compile"] if number == 0 and setting == "tuned" else []  # slow to start, so measured once
            part = in_process("benchmarks.network", setting, f"--threads={threads}", f"--rounds={rounds}", *extra)
            for title, ways in part.items():
                for name, rates in ways.items():
                    results.setdefault(title, {}).setdefault(name, {}).setdefault(setting, []).extend(rates)
    changed = 100 * np.mean(results.pop("codes changed by bf16")["share"]["default"])
    shown = table(
        f"Network, batch 64, 2 x 128 x 128, {threads} threads: patches/s. bf16 changes {changed:.1f} % of the codes",
        "",
        "default allocator",
        "tuned allocator",
        "ratio, default",
        "ratio, tuned",
        "ours tuned / reference default",
    )
    for title, ways in results.items():
        base = ways["reference"]
        for name, rates in ways.items():
            cells = [spread(rates[setting]) if setting in rates else "" for setting in ("default", "tuned")]
            if name != "reference":
                for setting in ("default", "tuned"):
                    num = len(rates.get(setting, []))
                    cells.append(spread(np.array(rates[setting]) / base[setting][:num], 1) if num else "")
                cells.append(f"{np.median(rates['tuned']) / np.median(base['default']):.1f}")
            shown.add_row(f"{title}: {name}", *cells)
        shown.add_section()
    console.print(shown)


def pipeline(threads: int) -> None:
    """Assembling, loading, and what a step costs outside of the network."""
    facts = in_process("benchmarks.pipeline", f"--threads={threads}")
    both = facts["assemble"]
    shown = table(
        f"Assembling {facts['cells']} cells from {facts['gigabytes']:.2f} GB of pickles in the page cache",
        *(
            "",
            "seconds",
            "patches/s",
            "peak memory, MB",
            "of it after the imports, MB",
            "times as fast",
            "share of memory after imports",
        ),
    )
    for name, part in both.items():
        seconds, above = np.array(part["seconds"]), max(part["above_imports_mb"])
        cells = [spread(seconds, 2), spread(facts["cells"] / seconds), f"{max(part['peak_mb']):,.0f}", f"{above:,.0f}"]
        ratio = np.array(both["reference"]["seconds"]) / seconds
        shown.add_row(name, *cells, spread(ratio, 1), f"{above / max(both['reference']['above_imports_mb']):.2f}")
    console.print(shown)
    shown = table("Batches of 64 patches from that store", "", "patches/s")
    for name, rates in facts["load"].items():
        shown.add_row(name, spread(rates))
    console.print(shown)
    shown = table("The training loop on that store, batch 64: milliseconds per step", "", "ms")
    for name, milliseconds in facts["loop"].items():
        shown.add_row(name, spread(milliseconds, 2))
    console.print(shown)


def kernels(threads: int) -> None:
    """Huge kernels in Fourier space against direct ones, and training steps of the autoencoders."""
    facts = in_process("benchmarks.kernels", f"--threads={threads}")
    shown = table(f"Transposed convolutions, batch 100, {threads} threads: ms", "", "direct", "ours", "times as fast")
    for stage, passes in facts["stages"].items():
        for title, ways in passes.items():
            direct, ours = (1e3 * np.array(ways[name]) for name in ("direct", "ours"))
            shown.add_row(f"{stage}: {title}", spread(direct, 1), spread(ours, 1), spread(direct / ours, 1))
    console.print(shown)
    shown = table("Training the Gaussian autoencoder, 7 x 64 x 64, batch 100", "", "patches/s")
    for name, rates in facts["models"].items():
        shown.add_row(name, spread(rates))
    console.print(shown)


def partitions() -> None:
    """Images to partitions: memory over the number of images."""
    facts = in_process("benchmarks.partitioning")
    head = ("", "images", "partitions", "seconds", "images/s", "peak memory, MB", "of it after the imports, MB")
    shown = table("Images of 1000 x 1000 x 7 uint16 to partitions of 64 px", *head)
    for way in ("reference", "ours"):
        for count, part in facts[way].items():
            cells = f"{part['partitions']:,}", f"{part['seconds']:.1f}", f"{int(count) / part['seconds']:.1f}"
            shown.add_row(way, count, *cells, f"{part['peak_mb']:,.0f}", f"{part['above_imports_mb']:,.0f}")
    shown.add_row("reference, by its formula", "400", *[""] * 4, f"{400 * facts['reference_formula_mb_per_image']:,.0f}")
    console.print(shown)


def patterns(threads: int, rounds: int) -> None:
    """Background removal of Kikuchi patterns, and training steps of their network."""
    facts = in_process("benchmarks.patterns", f"--threads={threads}", f"--rounds={rounds}")
    head = ("", "scipy, pattern by pattern", "ours", "times as fast", "greatest difference")
    shown = table(f"Static and dynamic background and z-score, {threads} threads: patterns/s", *head)
    for size, part in facts["removal"].items():
        theirs, mine = (part["patterns"] / np.array(part[way]) for way in ("scipy", "ours"))
        shown.add_row(size, spread(theirs), spread(mine), spread(mine / theirs, 1), f"{part['difference']:.0e}")
    console.print(shown)
    shown = table("Training kikuchi_cnn, 16 latents, batch 64", "", "patterns/s")
    for size, rates in facts["training"].items():
        shown.add_row(size, spread(rates))
    console.print(shown)


def association(rounds: int) -> None:
    """Associations of latents with a map: every metric against its definition, all of them with their nulls, and memory."""
    facts = in_process("benchmarks.association", f"--rounds={rounds}")
    head = ("", "points", "by definition", "ours", "times as fast", "greatest difference")
    shown = table("One dimension and one map: ms", *head)
    for metric, sizes in facts["ratios"].items():
        for num, part in sizes.items():
            theirs, mine = (1e3 * np.array(part[way]) for way in ("naive_s", "ours_s"))
            note = " (n^3 from fewer)" if part["extrapolated"] else ""
            cells = spread(theirs, 2) + note, spread(mine, 2), spread(theirs / mine, 1), f"{part['difference']:.0e}"
            shown.add_row(metric, num, *cells)
    console.print(shown)
    shown = table("All metrics with nulls of the ten highest dimensions: seconds", "", "all", *facts["ratios"], "peak memory, MB")
    for name, part in facts["scans"].items():
        each = (f"{part['seconds'][metric]:.1f}" for metric in facts["ratios"])
        shown.add_row(name, f"{part['total_s']:.0f}", *each, f"{part['peak_mb']:,.0f}")
    console.print(shown)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    parser.add_argument("--passes", type=int, default=2, help="processes per allocator setting")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way in a process")
    parser.add_argument("--only", choices=["network", "pipeline", "partitions", "kernels", "patterns", "association"])
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda"):
        from benchmarks.gpu import show

        show(console, arguments.device, arguments.rounds)
        return
    parts = {
        "network": lambda: network(arguments.threads, arguments.passes, arguments.rounds),
        "pipeline": lambda: pipeline(arguments.threads),
        "kernels": lambda: kernels(arguments.threads),
        "partitions": partitions,
        "patterns": lambda: patterns(arguments.threads, arguments.rounds),
        "association": lambda: association(arguments.rounds),
    }
    for name in [arguments.only] if arguments.only else parts:
        parts[name]()


if __name__ == "__main__":
    main()
