#!/usr/bin/env bash
# Renew the locked dependencies from pyproject.toml: bash scripts/lock.sh [--upgrade]
#
# Hashes of every file of every package, for Python 3.11 and later on every platform; no addresses, so that each
# machine's own configuration says where packages come from.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=.venv/bin/uv
lock() { "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"; }
lock pyproject.toml --output-file requirements/run.txt "$@"
lock pyproject.toml --extra test --constraint requirements/run.txt --output-file requirements/test.txt "$@"
echo uv | lock - --output-file requirements/uv.txt "$@"
