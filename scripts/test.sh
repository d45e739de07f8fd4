#!/usr/bin/env bash
# Set up on first use, then run the tests: bash scripts/test.sh [pytest arguments]
#
# All but the slow ones, a quarter of an hour on two cores. `-m slow` runs those, `-m gpu` the ones for a GPU.
set -euo pipefail
# shellcheck disable=SC2034 # read by setup.sh
SETUP_LOCK=requirements/test.txt
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT"
# Two processes, each file whole in one of them; -n0 runs all in one, for a debugger.
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile "$@"
