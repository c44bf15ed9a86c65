"""What compiles the programs for the kernel."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bpf.kernel import builder


@pytest.mark.skipif(shutil.which("clang") is None, reason="there is no clang")
def test_many_may_compile_the_same_at_the_same_time(tmp_path: Path) -> None:
    build = builder()
    source = next(one for one in build.OBJECTS if one.name == "strangers.bpf.c")
    into = tmp_path / "strangers.bpf.o"
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(build.compile_program, [source] * 4, [into] * 4)) == [""] * 4
    assert list(tmp_path.iterdir()) == [into]
    assert into.read_bytes().startswith(b"\x7fELF")
