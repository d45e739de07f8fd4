#!/usr/bin/env bash
# Everything that only a GPU can tell, within nine minutes: bash scripts/gpu_check.sh [--images cifar10-jpeg.tar.xz] [--data FOLDER]
#
# GPU tests, CIFAR-10 by experiment=cifar10_speed over 21 seeds and by a loop by hand, step times beside hand-written and stock
# loops, populations beside single runs. Each part has its seconds; one that fails or is not done is recorded, and the next one goes on.
# Results are JSON in experiments/speed/: gpu_check.json says what came of each part.
#
# Needs the environment of scripts/test.sh, or of the install.sh that scripts/offline_bundle.sh makes for a machine without a network.
# Without a GPU it says so and exits with 1; --cpu-rehearsal walks through all parts on the CPU with next to no work.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
python="${GRADLAB_VENV:-$root/.venv}/bin/python"
[ -x "$python" ] || { echo "gpu_check: there is no $python: run scripts/test.sh, or the install.sh of an offline bundle, first" >&2; exit 1; }
exec "$python" "$root/scripts/gpu/check.py" "$@"
