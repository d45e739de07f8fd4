#!/usr/bin/env bash
# Set up on first use, then train: bash scripts/train.sh optimizer=adam
#
# Needs Python 3.11 or newer and nothing else; takes the same arguments as `python train.py`.
# The first call installs 6 GB in one to three minutes; later ones start Python at once.
set -euo pipefail
# shellcheck disable=SC2034 # read by setup.sh
SETUP_LOCK=requirements/run.txt
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$VENV/bin/python" "$ROOT/train.py" "$@"
