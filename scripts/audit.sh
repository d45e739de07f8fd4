#!/usr/bin/env bash
# Are there known vulnerabilities in the locked dependencies? bash scripts/audit.sh
#
# pip-audit, in an environment of its own (it is no dependency of gradlab), reads the lock and asks the Python Packaging
# Advisory Database at pypi.org or, with AUDIT_SERVICE=osv, the one at osv.dev. Exit status: 0 none known, 1 some, 2 it
# could not ask.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
status=0
report="$(.venv/bin/uvx pip-audit --requirement requirements/test.txt --require-hashes --disable-pip --strict \
    --vulnerability-service "${AUDIT_SERVICE:-pypi}" --progress-spinner off 2>&1)" || status=$?
printf '%s\n' "$report"
# It exits with 1 for a vulnerability as for a network that is not there; a vulnerability it names.
if [ "$status" != 0 ] && ! grep -qE '^Found [0-9]+ known vulnerabilit' <<<"$report"; then
    echo "audit: nothing was checked; this needs a connection to pypi.org (or, with AUDIT_SERVICE=osv, to osv.dev)." >&2
    exit 2
fi
exit "$status"
