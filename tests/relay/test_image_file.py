"""The image's build has all that building the package takes."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
FOLDERS = [*BUILD["targets"]["wheel"]["packages"], str(Path(BUILD["hooks"]["custom"]["path"]).parent)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_the_package_is_built_from_is_in_the_image(folder: str) -> None:
    assert f"!{folder}" in (ROOT / ".containerignore").read_text().splitlines()
    copied = (ROOT / "contrib/container/Containerfile").read_text().splitlines()
    assert f"COPY {folder} {folder}" in copied
