"""The wheel and the source distribution hold the product, all of it, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from .distributions import build

ROOT = Path(__file__).parents[2]
PACKAGES = ("runtime", "export", "quantize", "deploy", "benchmarks", "cli")


def product() -> set[str]:
    """Files of packages, as a clone has them; folders without ``__init__.py`` hold scripts."""
    return {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if (file.suffix == ".py" or file.name == "py.typed")
        and (file.parent / "__init__.py").is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    try:
        return build(ROOT, tmp_path_factory.mktemp("distributions") / "dist")
    except ConnectionError as error:
        pytest.skip(str(error))


def test_the_wheel_holds_the_product(built: tuple[Path, Path]) -> None:
    with ZipFile(built[1]) as archive:
        names = set(archive.namelist())
    inside = {name.removeprefix("seq2edge/") for name in names if name.startswith("seq2edge/")}
    assert inside == product()
    others = {name.split("/")[0] for name in names if not name.startswith("seq2edge/")}
    assert others == {built[1].name.split("-py3")[0] + ".dist-info"}


def test_the_source_distribution_holds_what_it_is_built_from(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {"/".join(member.name.split("/")[1:]) for member in archive if member.isfile()}
    generated = {name for name in names if name.startswith("seq2edge.egg-info/")}
    own = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
    assert names - generated == product() | own


def test_the_wheel_says_what_it_needs(built: tuple[Path, Path]) -> None:
    with ZipFile(built[1]) as archive:
        folder = built[1].name.split("-py3")[0] + ".dist-info"
        metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        entry = archive.read(f"{folder}/entry_points.txt").decode()
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
    asked = metadata.get_all("Requires-Dist", [])
    assert {line.split(">")[0] for line in asked if "extra ==" not in line} == {
        "numpy",
        "tokenizers",
    }
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "seq2edge = seq2edge.cli.main:main" in entry


def test_it_runs_out_of_the_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    """As it would be imported where it is installed: nothing of the clone is on the path."""
    with ZipFile(built[1]) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'seq2edge' not in repr(f)];"
        f"sys.path.insert(0, {str(tmp_path / 'site')!r});"
        "from seq2edge.cli import main; print(main.__file__); sys.exit(main.main(['--version']))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    file, version = done.stdout.splitlines()
    assert Path(file).is_relative_to(tmp_path / "site")
    assert version.startswith("seq2edge ")
