"""Several processes as one: what torchrun started, and what batches must share to equal a single process.

``torchrun --nproc-per-node=2 train.py ...`` starts the processes; each takes its contiguous part of every global batch.
"""

from __future__ import annotations

import os
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce as differentiable_sum
from torch.nn.modules.batchnorm import _BatchNorm


def world_size() -> int:
    """Return the number of processes, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number; 0 owns the run folder."""
    return dist.get_rank() if dist.is_initialized() else 0


def start(device: str) -> None:
    """Join the group that torchrun set up in the environment; do nothing without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        if on_gpu:  # before the first message, or all processes would send it from the first GPU
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if on_gpu else "gloo")


def stop() -> None:
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def share(value: object) -> object:
    """Return rank 0's value on every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def total(x: Tensor) -> Tensor:
    """Sum over processes, without gradient."""
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def largest(value: int) -> int:
    """Return the largest of the processes' values."""
    box = torch.tensor(value, device="cuda" if dist.is_initialized() and dist.get_backend() == "nccl" else "cpu")
    if world_size() > 1:
        dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return int(box)


def shard(num: int) -> slice:
    """Return this process's contiguous part of ``num`` rows; parts differ by one row at most."""
    return slice(num * rank() // world_size(), num * (rank() + 1) // world_size())


def gather(x: Tensor) -> Tensor:
    """Concatenate over processes along the first axis, with gradients; parts may differ in length."""
    if world_size() == 1:
        return x
    sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    before = int(sum(size.item() for size in sizes[: rank()]))
    whole = x.new_zeros((int(sum(size.item() for size in sizes)), *x.shape[1:]))
    # Each process fills its own rows and the differentiable sum brings the rows together, whatever their number.
    return differentiable_sum(torch.cat([whole[:before], x, whole[before + len(x) :]]))


def global_batch_norm(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Normalise (B, C, ...) with the global batch's mean and population variance, on any device and for unequal parts.

    ``torch.nn.SyncBatchNorm`` does the same on GPUs alone.
    """
    dims, wide = (0, *range(2, x.ndim)), x.to(torch.promote_types(x.dtype, torch.float32))
    sums = [wide.sum(dims), wide.square().sum(dims), wide.new_full((x.shape[1],), x.numel() / x.shape[1])]
    sum_x, sum_xx, count = differentiable_sum(torch.stack(sums))
    mean = sum_x / count
    var = (sum_xx / count - mean * mean).clamp_min(0)
    if norm.running_mean is not None:
        with torch.no_grad():
            norm.num_batches_tracked += 1
            share = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean, share)
            norm.running_var.lerp_(var * count / (count - 1), share)
    scale = torch.rsqrt(var + norm.eps) * (1 if norm.weight is None else norm.weight)
    shift = (0 if norm.bias is None else norm.bias) - mean * scale
    across = (-1, *[1] * (x.ndim - 2))
    return (wide * scale.view(across) + shift.view(across)).to(x.dtype)


class GlobalBatchNorm(_BatchNorm):
    """Batch normalisation with the statistics of the global batch, in place of torch's own forward."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the global batch in training, as torch does in evaluation."""
        return global_batch_norm(self, x) if self.training else super().forward(x)


@cache
def _with_global_statistics(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    return type(f"Global{kind.__name__}", (GlobalBatchNorm, kind), {})


def with_global_batch_norm(model: nn.Module) -> nn.Module:
    """Give every batch normalisation of a model the statistics of the global batch, where there are several processes."""
    if world_size() > 1:
        for module in model.modules():
            if isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward:
                module.__class__ = _with_global_statistics(type(module))  # same parameters and buffers, another forward
    return model
