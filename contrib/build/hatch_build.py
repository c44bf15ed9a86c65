"""Compiles the kernel's programs when the package is built, if there is a clang (see README.md)."""

import contextlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "relay" / "fastpath" / "bpf"
#: By source, what becomes of it.
OBJECTS = {source: SOURCES.parent / f"{source.stem}.o" for source in sorted(SOURCES.glob("*.bpf.c"))}

#: -mcpu: with v3 the compiler keeps 32-bit values on the stack, which old verifiers refuse (bpf/stack.h), and
#: the program becomes no shorter. -g: the maps' types (BTF).
_FLAGS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v2")


def compile_programs() -> str:
    """Compile the programs; why it could not be done, or nothing."""
    problems = (compile_program(source, into) for source, into in OBJECTS.items())
    return next(filter(None, problems), "")


def compile_program(source: Path, into: Path) -> str:
    """Compile one; why it could not be done, or nothing."""
    clang = shutil.which("clang")
    if clang is None:
        return "there is no clang"
    # Debian keeps asm/types.h in a directory of the machine, which -target bpf hides.
    include = f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH')}"
    # Beside the place it is for, which it gets at once; and its own, for others may compile at the same time.
    with tempfile.TemporaryDirectory(prefix=f".{into.stem}-", dir=into.parent) as directory:
        partial = Path(directory) / into.name
        done = subprocess.run(
            [clang, *_FLAGS, include, "-c", str(source), "-o", str(partial)], capture_output=True, text=True
        )
        if done.returncode:
            return done.stderr.strip()
        strip = shutil.which("llvm-strip")
        if strip is not None:  # a third of the size, and the maps' types stay
            subprocess.run([strip, "-g", str(partial)], check=True)
        partial.replace(into)
    return ""


def up_to_date() -> bool:
    """Whether the objects are newer than all that they are made from."""
    with contextlib.suppress(FileNotFoundError):
        built = min(into.stat().st_mtime for into in OBJECTS.values())
        return all(source.stat().st_mtime <= built for source in SOURCES.iterdir())
    return False


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run by hand
    pass
else:

    class ProgramHook(BuildHookInterface[Any]):
        """The hook, as hatchling finds it."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  hatchling's
            """Compile before the files of the package are gathered."""
            problem = "" if up_to_date() else compile_programs()
            if problem:
                for into in OBJECTS.values():  # of other sources: they may not be what we think
                    into.unlink(missing_ok=True)
                self.app.display_warning(f"vpnmasq is built without its programs for the kernel: {problem}")


if __name__ == "__main__":
    sys.exit(compile_programs() or None)
