"""The network on a GPU, with the store in its memory: patches per second, ratios to the reference, share of the roofline."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.network import build, relations
from benchmarks.reference import ReferenceVQVAE, augment_one_by_one, process_one_by_one
from benchmarks.timing import alternate, spread
from microlatent.contract import Batch
from microlatent.data.augment import dihedral, draw

PATCHES = 8192  # in device memory: 0.5 GB of uint16
STEPS = 20  # per turn, so that launching and waiting are part of it as in training
# Per patch of 2 x 128 x 128 in training (first convolution folded, matching as a Gram matrix): operations, and bytes that cross
# the memory bus if every layer reads its input and writes its output once in single precision.
FLOPS, BYTES = 59.9e6, 14.7e6


class Resident:
    """Patches in device memory, and batches of them as training takes them."""

    def __init__(self, device: str, batch_size: int) -> None:
        self.device, self.batch_size = torch.device(device), batch_size
        counts = torch.randint(0, 60_000, (PATCHES, 2, 128, 128), dtype=torch.int32)
        self.images = counts.to(torch.uint16).to(device)
        self.mean, self.std = (torch.full((1, 2, 1, 1), value, device=device) for value in (30_000.0, 17_000.0))
        self.codes = relations(batch_size).to(device)
        self.generator = torch.Generator().manual_seed(0)

    def pixels(self) -> torch.Tensor:
        """Draw a batch and normalise it, on the device."""
        rows = torch.randint(PATCHES, (self.batch_size,), generator=self.generator)
        return (self.images[rows.to(self.device)].float() - self.mean) / self.std

    def augmented(self) -> torch.Tensor:
        """Draw a normalised batch with flips and turns."""
        return dihedral(self.pixels(), draw(self.batch_size, self.generator))


def reference_steps(data: Resident) -> Callable[[], None]:
    """Training steps as the reference takes them."""
    model, rng = ReferenceVQVAE().to(data.device), np.random.RandomState(0)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    codes = data.codes.float()

    def steps() -> None:
        for _ in range(STEPS):
            _, terms = model(augment_one_by_one(data.pixels(), rng), codes)
            terms["total"].backward()
            optimiser.step()
            model.zero_grad()

    return steps


def our_steps(data: Resident, *, bf16: bool, compiled: bool = False, graph: bool = False) -> Callable[[], None]:
    """Training steps of ours, eager, compiled, or replayed as a CUDA graph."""
    model = build(str(data.device)).train()
    objective = torch.compile(model.loss) if compiled else model.loss
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=1e-4, fused=True, capturable=graph)
    held = data.augmented()

    def step(x: torch.Tensor) -> None:
        with torch.autocast(data.device.type, torch.bfloat16, enabled=bf16, cache_enabled=not graph):
            total = objective(Batch(x, relations=data.codes), 0).terms["total"]
        total.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    if not graph:

        def steps() -> None:
            for _ in range(STEPS):
                step(data.augmented())

        return steps

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # a graph is recorded after a few ordinary steps, as torch's documentation asks
        for _ in range(3):
            step(held)
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        step(held)

    def replays() -> None:
        for _ in range(STEPS):
            held.copy_(data.augmented())
            recorded.replay()

    return replays


def ceilings(device: str) -> dict[str, float]:
    """Measure what the device reaches: operations per second in both precisions, and bytes copied per second."""
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(8192, 8192, device=device, dtype=dtype)
        seconds = alternate({"matmul": lambda a=a: [a @ a for _ in range(5)]}, 5, device)["matmul"]
        found[name] = 5 * 2 * 8192**3 / min(seconds)
    source, target = (torch.empty(2**28, device=device) for _ in range(2))
    seconds = alternate({"copy": lambda: [target.copy_(source) for _ in range(5)]}, 5, device)["copy"]
    return found | {"bytes": 5 * 2 * 4 * 2**28 / min(seconds)}


def training(device: str, batch_size: int, rounds: int, ceiling: dict[str, float]) -> Table:
    """Compare training steps at one batch size."""
    data = Resident(device, batch_size)
    ways = {
        "reference": reference_steps(data),
        "ours": our_steps(data, bf16=False),
        "ours, bf16": our_steps(data, bf16=True),
        "ours, compiled, bf16": our_steps(data, bf16=True, compiled=True),
        "ours, CUDA graph": our_steps(data, bf16=False, graph=True),
        "ours, CUDA graph, bf16": our_steps(data, bf16=True, graph=True),
    }
    seconds = alternate(ways, rounds, device)
    shown = Table(title=f"Training step, batch {batch_size}, store in device memory", title_justify="left")
    for column in ("", "patches/s", "ratio", "share of roofline, %"):
        shown.add_column(column, justify="right" if column else "left")
    base = np.array(seconds["reference"])
    for name, values in seconds.items():
        rate = batch_size * STEPS / np.array(values)
        precision, width = ("bf16", 2) if "bf16" in name else ("fp32", 4)
        floor = max(FLOPS / ceiling[precision], BYTES * width / 4 / ceiling["bytes"])
        shown.add_row(name, spread(rate), spread(base / np.array(values), 1), f"{100 * floor * np.median(rate):.1f}")
    return shown


def encoding(device: str, batch_size: int, rounds: int) -> Table:
    """Compare encoding; the reference takes one patch at a time and waits for each."""
    data, model, reference = Resident(device, batch_size), build(device), ReferenceVQVAE().to(device)
    x = data.pixels()

    def coarse(norm: str) -> dict[str, torch.Tensor]:
        with torch.autocast(data.device.type, torch.bfloat16):
            return model.encode(x, norm)

    ways = {"reference": lambda: process_one_by_one(reference, x)}
    for norm in ("instance", "eval"):
        ways[f"ours, {norm}"] = lambda norm=norm: {key: z.cpu() for key, z in model.encode(x, norm).items()}
        ways[f"ours, {norm}, bf16"] = lambda norm=norm: {key: z.cpu() for key, z in coarse(norm).items()}
    seconds = alternate(ways, rounds, device)
    exact, rounded = (z["after"].view(batch_size, 16, -1) for z in (model.encode(x), coarse("eval")))
    changed = 100 * float((exact != rounded).any(1).float().mean())
    title = f"Encoding {batch_size} patches to host memory; bf16 changes {changed:.1f} % of the codes"
    shown = Table(title=title, title_justify="left")
    for column in ("", "patches/s", "ratio"):
        shown.add_column(column, justify="right" if column else "left")
    for name, values in seconds.items():
        ratio = np.array(seconds["reference"]) / np.array(values)
        shown.add_row(name, spread(batch_size / np.array(values)), spread(ratio, 1))
    return shown


def show(console: Console, device: str, rounds: int) -> None:
    """Print all tables."""
    if not torch.cuda.is_available():
        raise SystemExit("No CUDA device is visible to torch. Run without DEVICE=cuda, or install torch for CUDA.")
    ceiling = ceilings(device)
    console.print(
        f"{torch.cuda.get_device_name(device)}: {ceiling['fp32'] / 1e12:.0f} TFLOP/s fp32, {ceiling['bf16'] / 1e12:.0f} TFLOP/s "
        f"bf16, {ceiling['bytes'] / 1e9:.0f} GB/s (read and write), all measured"
    )
    for batch_size in (64, 256, 1024):
        console.print(training(device, batch_size, rounds, ceiling))
    console.print(encoding(device, 256, rounds))
