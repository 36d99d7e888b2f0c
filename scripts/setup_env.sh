#!/usr/bin/env bash
# Make the environment: a virtual environment, torch in the build that fits the machine, then the locked packages.
# TORCH=auto|cpu|cuda|skip overrides the choice of torch; TORCH_INDEX names an extra index that holds the CPU build.
set -euo pipefail
venv=${1:-.venv}
python=${PYTHON:-$(command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3 || true)}
torch_version=2.13.0
root=$(cd "$(dirname "$0")/.." && pwd)

[ -n "$python" ] || { echo "error: no python3 found. Install Python 3.11, 3.12 or 3.13." >&2; exit 1; }
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' ||
  { echo "error: $("$python" --version) is not supported; Python 3.11 to 3.13 is needed. Set PYTHON=<interpreter>." >&2; exit 1; }
"$python" -c 'import ensurepip' 2>/dev/null ||
  { echo "error: $python has no venv module. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
has_torch() { "$venv/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '$torch_version')" 2>/dev/null; }

install_cpu_torch() {
  pip install --quiet --no-compile "torch==$torch_version+cpu" 2>/dev/null && return
  if [ -n "${TORCH_INDEX:-}" ]; then
    pip install --quiet --no-compile --extra-index-url "$TORCH_INDEX" "torch==$torch_version+cpu" && return
  fi
  echo "note: no CPU build of torch $torch_version is configured for pip (set TORCH_INDEX to an index that has it);" >&2
  echo "      installing the default build, which brings several GB of CUDA packages." >&2
  pip install --no-compile "torch==$torch_version"
}

# torch is kept out of the lock: a hash of the default build would make pip fetch it over a configured CPU build.
choice=${TORCH:-auto}
if [ "$choice" = auto ]; then command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU && choice=cuda || choice=cpu; fi
if [ "$choice" != skip ] && ! has_torch; then
  echo "installing torch $torch_version ($choice)"
  if [ "$choice" = cuda ]; then pip install --quiet --no-compile "torch==$torch_version"; else install_cpu_torch; fi
fi
echo "installing the locked packages"
pip install --quiet --no-compile --require-hashes -r "$root/requirements/lock.txt"

# This package in place: its src/ is on the path from now on.
pip install --quiet --no-deps --no-build-isolation --editable "$root"
# Bytecode of what is used alone: pip would compile everything and take longer than all the rest.
env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 "$venv/bin/python" - <<'PY'
import requests, torch._dynamo, wandb.sdk.wandb_run
import anndata.io, h5py, hydra.main, hypothesis, pytest, sklearn.decomposition, tifffile, torch.distributed.run, umap, wandb, zarr
from microlatent import config, training
for choice in (choice for group in config.REGISTRY.values() for choice in group.values() if choice.target):
    choice.load()
PY
