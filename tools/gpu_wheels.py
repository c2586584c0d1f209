"""The wheels that `tools/gpu_tests.sh` needs on a machine with torch, Python 3.12 and no network: `python tools/gpu_wheels.py FOLDER`.

NIXL's wheel is made smaller on the way (it has storage plugins and their clouds' libraries inside), to a third.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

NEEDED = [
    "annotated-types",
    "backports.zstd",
    "hiredis",
    "nixl-cu13",
    "platformdirs",
    "pydantic-settings",
    "pytest-asyncio",
    "python-dotenv",
    "structlog",
    "typing-inspection",
]
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
LEFT_OUT = ("nixl_ep_", "libaws", "libazure", "libgusli", "_example", "telemetry_reader")
PLUGINS = "/nixl/libplugin_"


def download(folder: Path, *names: str) -> None:
    """The wheels of exactly these packages."""
    where = [word for platform in PLATFORMS for word in ("--platform", platform)]
    python = ["--python-version", "3.12", "--implementation", "cp", *where]
    command = ["-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", *python, "-d", str(folder), *names]
    subprocess.run([sys.executable, *command], check=True)


def slim(wheel: Path) -> None:
    """Leave out of NIXL's wheel what only storage backends use."""
    small = wheel.with_suffix(".small")
    with zipfile.ZipFile(wheel) as before, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as after:
        for item in before.infolist():
            other_plugin = PLUGINS in item.filename and "UCX" not in item.filename
            if not other_plugin and not any(word in item.filename for word in LEFT_OUT):
                after.writestr(item, before.read(item))
    small.replace(wheel)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    # Of pydantic's two packages each version goes with exactly one of the other.
    paired = [f"{name}=={version(name)}" for name in ("pydantic", "pydantic-core")]
    download(folder, *NEEDED, *paired)
    for wheel in folder.glob("nixl_cu13-*.whl"):
        slim(wheel)
    for wheel in sorted(folder.glob("*.whl")):
        print(f"{wheel.stat().st_size / 1e6:7.2f} MB  {wheel.name}")


if __name__ == "__main__":
    main()
