"""Memory that is freed and asked for again: from the process's own heap, or from the system, page by page."""

import json
import os
import sys
from pathlib import Path

import pytest

from processes import execute

SCRIPT = """
import json, re, resource
from pathlib import Path
from gradlab.allocator import give_back_freed_memory, keep_freed_memory

LARGE = 64 << 20  # more than glibc ever keeps by itself

def pages_handed_out():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        b"x" * LARGE
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(re.search(r"^VmRSS:\\s+(\\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) * 1024

plain = pages_handed_out()
assert keep_freed_memory()
b"x" * LARGE
kept, held = pages_handed_out(), resident()
give_back_freed_memory()
print(json.dumps({"plain": plain, "kept": kept, "given back": held - resident()}))
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="the C library is not glibc")
def test_freed_memory_is_kept_and_given_back(tmp_path: Path) -> None:
    finished = execute([sys.executable, "-c", SCRIPT], tmp_path, 60)
    assert finished.status == 0, finished.err
    found = json.loads(finished.out)
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert found["plain"] >= 8 * pages
    assert found["kept"] < pages // 10
    assert found["given back"] > 60 << 20
