#!/usr/bin/env bash
# What the slow tests of tracking servers and clusters need beside the set-up: bash scripts/services.sh
#
# PostgreSQL and SLURM from Debian's (or Ubuntu's) packages, the driver of the one and submitit for the other, and Ray (75 MB).
# The tests start servers of their own from them; none is left running, and the system's own are not touched. Then:
# bash scripts/test.sh -m slow
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
sudo="$([ "$(id -u)" = 0 ] || echo sudo)"
if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! command -v initdb >/dev/null; then
    if ! command -v apt-get >/dev/null; then
        echo "services: this system has no apt-get; install PostgreSQL yourself, so that initdb and pg_ctl are in PATH." >&2
        exit 1
    fi
    $sudo apt-get update
    # Without this, Debian's package would start a server of its own at once.
    $sudo mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] \
        || echo 'create_main_cluster = false' | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
    $sudo apt-get install --yes --no-install-recommends postgresql
fi
if ! PATH="$PATH:/usr/sbin" command -v slurmctld >/dev/null && command -v apt-get >/dev/null; then
    $sudo apt-get update
    $sudo apt-get install --yes --no-install-recommends slurmctld slurmd slurm-client munge
fi
.venv/bin/uv pip install --python .venv/bin/python 'psycopg[binary]>=3.2' 'submitit>=1.5.4' 'ray>=2.60'
