#!/usr/bin/env bash
# Collect the wheels that a machine without a network lacks: bash scripts/offline_bundle.sh [options]
#
#   bash scripts/offline_bundle.sh --python 3.12 --have torch,torchvision,lightning --tests
#
# Every file is compared with the hashes of requirements/run.txt (with --tests: test.txt). --have leaves out what is there
# already; torch stands for all that comes with it, NVIDIA's libraries too. Copy the folder and gradlab's own to the machine, and
# there run install.sh of it, which needs no network. Runs in the environment that scripts/test.sh or train.sh has made.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
python="${GRADLAB_VENV:-$root/.venv}/bin/python"
[ -x "$python" ] || { echo "offline_bundle: first run scripts/train.sh or scripts/test.sh once, which makes $root/.venv" >&2; exit 1; }
exec "$python" "$root/scripts/offline/bundle.py" "$@"
