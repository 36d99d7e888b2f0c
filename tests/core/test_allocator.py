"""Memory kept between operations."""

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys, torch
from microlatent import allocator

torch.set_num_threads(1)
if sys.argv[1] == "tuned":
    assert allocator.tune()
for repeat in range(24):
    if repeat == 12:  # by now the heap has grown to what the loop needs
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)  # 40 MB: above glibc's largest threshold for mapping anew
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(how: str, root) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, text=True, check=True, cwd=root / "src")
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting exists on Linux alone")
def test_large_temporaries_keep_their_pages(pytestconfig):
    assert count_faults("tuned", pytestconfig.rootpath) < count_faults("default", pytestconfig.rootpath) / 10


def test_tuning_says_no_outside_of_linux(monkeypatch):
    from microlatent import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.tune() is False
