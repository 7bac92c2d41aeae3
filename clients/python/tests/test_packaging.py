"""The built package: complete, typed, and no traces in the tree."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import python_kv

PACKAGE = Path(__file__).parent.parent
LICENSES = {"LICENSE-MIT", "LICENSE-APACHE"}


def tree():
    return {
        path.relative_to(PACKAGE)
        for path in PACKAGE.rglob("*")
        if "__pycache__" not in path.parts and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The names in the wheel and in the source distribution, and the wheel's metadata."""
    backend = pytest.importorskip("flit_core.buildapi", reason="the build backend is not here")
    folder = tmp_path_factory.mktemp("built")
    before, here = tree(), os.getcwd()
    os.chdir(PACKAGE)
    try:
        wheel = folder / backend.build_wheel(str(folder))
        sdist = folder / backend.build_sdist(str(folder))
    finally:
        os.chdir(here)
    assert tree() == before
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = archive.namelist()
        metadata = archive.read(next(n for n in in_wheel if n.endswith("METADATA"))).decode()
    with tarfile.open(sdist) as archive:
        in_sdist = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    return set(in_wheel), set(in_sdist), metadata


def test_a_wheel_is_complete(built):
    wheel, _, _ = built
    assert LICENSES <= {name.rsplit("/", 1)[1] for name in wheel}
    modules = {f"python_kv/{path.name}" for path in (PACKAGE / "python_kv").glob("*.py")}
    assert modules | {"python_kv/py.typed"} <= wheel
    assert not any("tests" in name for name in wheel)


def test_a_source_distribution_has_tests_and_licences(built):
    _, sdist, _ = built
    tests = {f"tests/{path.name}" for path in (PACKAGE / "tests").glob("*.py")}
    assert tests | LICENSES | {"README.md", "pyproject.toml", "python_kv/py.typed"} <= sdist


def test_the_metadata_is_complete(built):
    _, _, metadata = built
    for line in (
        f"Version: {python_kv.__version__}",
        "License-Expression: MIT OR Apache-2.0",
        "License-File: LICENSE-MIT",
        "License-File: LICENSE-APACHE",
        "Requires-Python: >=3.8",
        "Requires-Dist: httptools>=0.6",
        "Requires-Dist: requests>=2.20",
    ):
        assert line in metadata.splitlines()
    assert "# python_kv" in metadata


def test_the_licences_are_those_of_the_repository():
    for name in LICENSES:
        original = PACKAGE.parent.parent / name
        if not original.exists():
            pytest.skip("not in the repository")
        assert (PACKAGE / name).read_bytes() == original.read_bytes()


def test_the_types_hold(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not here")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "python_kv"],
        cwd=PACKAGE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    assert checked.returncode == 0, checked.stdout
