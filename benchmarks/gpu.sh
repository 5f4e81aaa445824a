#!/usr/bin/env bash
# What only a GPU shows, in at most nine minutes on one card, on a machine that reaches nothing.
#
#   pip wheel --no-deps --wheel-dir wheels .                 # here: the kit, and what the machine lacks
#   pip download --no-deps --dest wheels datasets peft timm evaluate segmentation-models-pytorch bitsandbytes typer ...
#   bash benchmarks/gpu.sh wheels                            # there; without a folder, what is installed
#
# First what must be right on a GPU (pytest -m gpu), then the large networks with random weights (python -m
# benchmarks.gpu), the quantized ones first; then, as long as there is time, rows of the table of "Benchmarks"
# whose networks are installed (python -m benchmarks).
set -uo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
LIMIT=${LIMIT:-540}  # seconds in all

if [ $# -gt 0 ]; then
    site=$(mktemp -d)
    python3 -m pip install --quiet --no-index --no-deps --upgrade --target "$site" "$1"/*.whl || exit 1
    export PYTHONPATH="$site:$PWD"
fi
python3 - <<'CHECK' || exit 1
import torch

if not torch.cuda.is_available():
    raise SystemExit("gpu.sh: torch sees no CUDA device here")
print(torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda)
CHECK

timeout 60 python3 -m pytest -q -m gpu -p no:cacheprovider tests/tasks/generation
timeout 60 python3 -m benchmarks.gpu --size tiny --steps 4 decoder-4bit decoder-8bit
timeout $((LIMIT * 3 / 4)) python3 -m benchmarks.gpu --limit 60
for row in text-full sft-lora text-lora pictures-trainer predict; do
    left=$((LIMIT - SECONDS))
    [ "$left" -gt 20 ] || { echo "$row and what follows: no time left"; break; }
    timeout "$left" python3 -m benchmarks "$row" --device cuda --size large --repeats 1 || echo "$row: not measured"
done
