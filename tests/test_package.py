"""The wheel and the sdist: what is in them, and that what is installed from them works."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import peerload

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 120

IMPORT_EVERYTHING = """
import importlib, pathlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"numpy", "tokenizers", "ml_dtypes", "pytest", "hypothesis", "hiredis", "kubernetes", "aiohttp", "torch", "huggingface_hub", "google_crc32c", "starlette", "uvicorn"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import peerload
assert pathlib.Path(peerload.__file__).is_relative_to(sys.prefix), peerload.__file__
# What needs an extra, an engine or pytest says so by where it is.
extras = ("peerload.demo.minilm", "peerload.integrations.", "peerload.kubernetes.", "peerload.server.page.", "peerload.store.kubernetes.", "peerload.store.redis.", "peerload.testing.")
for module in pkgutil.walk_packages(peerload.__path__, "peerload."):
    if not module.name.startswith(extras) and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from peerload.store.kubernetes.manifests import manifests
from peerload.wire import p2p_pb2, sources_pb2
assert manifests("all", namespace="a").count("kind: ") > 4
assert sources_pb2.Manifest.DESCRIPTOR.full_name == "peerload.v1.Manifest"
print(peerload.__version__)
"""


def run(*command: object, **environment: str) -> str:
    """Run a command to its end; its output, or a failure that shows it."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=environment.pop("CWD", ROOT),
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel built from that."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def test_wheel_holds_what_the_package_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "peerload/py.typed",
        "peerload/wire/descriptors.binpb",
        "peerload/wire/protos/p2p.proto",
        "peerload/wire/protos/sources.proto",
        "peerload/wire/p2p_pb2.pyi",
        "peerload/cli/__init__.py",
        "peerload/store/redis/lua/put.lua",
        "peerload/store/kubernetes/manifests/crd.yaml",
        "peerload/server/page/files/index.html",
        "peerload/server/page/files/uplot/uPlot.esm.js",
        "peerload/server/page/files/uplot/LICENSE",
    } <= names
    info = f"peerload-{peerload.__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    assert {name.partition("/")[0] for name in names} == {"peerload", info}


def test_sdist_holds_the_sources_the_tests_and_the_documents(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "charts/peerload/values.schema.json",
        "docs/peerload.svg",
        "docs/ui-desktop.png",
        "examples/weights.py",
        "requirements/dev.txt",
        "src/peerload/__init__.py",
        "tests/test_package.py",
        "tools/generate_wire.py",
    } <= names
    assert not [name for name in names if name.endswith(".pyc") or name.startswith((".git/", ".venv"))]


def test_installed_wheel_works_without_the_extras(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    # The dependencies are lent from where the tests run; as PYTHONPATH, so that no editable install comes along.
    dependencies = sysconfig.get_path("purelib")
    version = run(python, "-c", IMPORT_EVERYTHING, PYTHONPATH=dependencies, CWD=str(tmp_path))
    assert version.strip() == peerload.__version__
    program = tmp_path / "venv" / "bin" / "peerload"
    assert run(program, "--version", PYTHONPATH=dependencies, CWD=str(tmp_path)).split()[-1] == peerload.__version__
    assert "pull" in run(python, "-m", "peerload", "--help", PYTHONPATH=dependencies, CWD=str(tmp_path))


def test_changelog_has_this_version() -> None:
    assert f"## [{peerload.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
