#!/bin/sh
# The tests that need an NVIDIA GPU, on a machine that has one, torch and no network.
#
#     sh tools/gpu_tests.sh WHEELS [pytest arguments]
#
# WHEELS is a folder of wheels for that machine's Python, of what it lacks: `tools/gpu_wheels.py WHEELS` fills it beforehand, where there
# is a network. They are unpacked into a folder of their own; nothing of the machine's is changed.
set -eu
wheels=$1
shift
cd "$(dirname "$0")/.."
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheels"/*.whl
export PYTHONPATH="$PWD/src:$site" PYTHONUNBUFFERED=1
python3 - "$site" <<'EOF'
import platform, sys, torch
print(f"==> {torch.cuda.get_device_name(0)}, torch {torch.__version__}, Python {platform.python_version()}")
EOF
# UCX looks for CUDA's runtime by name, in processes that have not loaded torch as well.
LD_LIBRARY_PATH=$(python3 -c '
import pathlib, torch
roots = pathlib.Path(torch.__file__).parent.parent.glob("nvidia/*/lib")
print(":".join(str(each) for each in roots if list(each.glob("libcudart*"))))'):${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH
python3 -m pytest -q -rA -p no:cacheprovider -o addopts= -o filterwarnings=default --import-mode=importlib --strict-markers -s -m gpu \
	tests/client/test_gpu.py tests/client/test_torch.py tests/engines/test_nixl_device.py "$@"
