# shellcheck shell=bash
# Sourced by train.sh and test.sh: makes .venv and installs the locked dependencies, once for each lock.
#
# Asks for: SETUP_LOCK, the lock file to install (requirements/run.txt or requirements/test.txt).
# Leaves:   VENV, the environment's folder; the working directory is not changed.
# User's settings: PYTHON, the interpreter to start from; GRADLAB_VENV, where the environment goes.

set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="${GRADLAB_VENV:-$ROOT/.venv}"
case "$VENV" in /*) ;; *) VENV="$PWD/$VENV" ;; esac
NEEDED_GB=8 # 6.2 GB of packages, most of it CUDA libraries, and room to unpack them

say() { printf 'gradlab set-up: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

# 0 where $1 runs and is Python 3.11 to 3.13, 2 where it is newer than any we have tested, 1 otherwise.
python_fits() {
    "$1" -c 'import sys; v = sys.version_info[:2]; sys.exit(1 if v < (3, 11) else 2 if v > (3, 13) else 0)' 2>/dev/null
}

find_python() {
    local candidate status newer=""
    if [ -n "${PYTHON:-}" ]; then
        status=0
        python_fits "$PYTHON" || status=$?
        [ "$status" != 1 ] || fail "PYTHON=$PYTHON is not Python 3.11 or newer: $("$PYTHON" --version 2>&1 || true)"
        printf '%s' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        status=0
        python_fits "$candidate" || status=$?
        case "$status" in
            0)
                printf '%s' "$candidate"
                return
                ;;
            2) newer="${newer:-$candidate}" ;;
        esac
    done
    [ -n "$newer" ] || fail "needs Python 3.11 or newer, and found $(python3 --version 2>&1 || echo none)." \
        "Install one (Debian, Ubuntu: apt install python3.12 python3.12-venv; anywhere: pyenv install 3.12)," \
        "or name yours: PYTHON=/path/to/python3.12 bash scripts/${0##*/}"
    say "$("$newer" --version) is newer than the versions that gradlab is tested with (3.11 to 3.13); trying it."
    printf '%s' "$newer"
}

# Free space of the file system that holds $1, which need not exist yet, in GB.
free_gb() {
    local folder="$1"
    while [ ! -d "$folder" ]; do folder="$(dirname "$folder")"; done
    df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1048576) }'
}

make_environment() {
    local python free
    free="$(free_gb "$VENV")"
    [ "$free" -ge "$NEEDED_GB" ] || fail "needs $NEEDED_GB GB in $(dirname "$VENV") and finds $free GB free." \
        "Torch's CUDA libraries take 6 GB of it, on a machine without a GPU too. Free some space, or put the" \
        "environment elsewhere: GRADLAB_VENV=/big/disk/venv bash scripts/${0##*/}"
    if ! { [ -x "$VENV/bin/python" ] && python_fits "$VENV/bin/python" && "$VENV/bin/python" -m pip --version; } >/dev/null 2>&1; then
        python="$(find_python)"
        if [ -e "$VENV" ] && [ ! -e "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
            fail "$VENV exists and is no Python environment; it is left alone. Name an empty or new folder in GRADLAB_VENV."
        fi
        say "making $VENV with $("$python" --version)"
        "$python" -m venv --clear "$VENV" || fail "cannot make an environment: $python lacks the module venv." \
            "Debian and Ubuntu have it in a package of its own: apt install python3-venv. Then run this again."
    fi
    rm -f "$VENV"/.gradlab-*
    say "installing the locked dependencies (a minute or two, once)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$ROOT/requirements/uv.txt" \
        || fail "cannot install uv. If the network broke, run the same command again: it goes on from here."
    "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --require-hashes -r "$ROOT/$SETUP_LOCK" \
        || fail "the installation broke off. If the network did, run the same command again: what is there already" \
            "is kept. If the disk is full, see 'df -h $VENV' and 'df -h ~/.cache/uv'."
    "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --no-deps --no-build-isolation --editable "$ROOT" \
        || fail "cannot install gradlab itself; the message above says why."
    # Proves that the installation works, and compiles once what every start will import (also where bytecode is
    # switched off: there each start would compile 2,000 files anew).
    say "compiling the imported packages once"
    PYTHONDONTWRITEBYTECODE='' "$VENV/bin/python" -c \
        'import lightning.pytorch, torchvision, mlflow, matplotlib.font_manager, hydra, safetensors.torch, rich.progress, gradlab.run' \
        || fail "the installed packages do not import; the message above says why. Remove $VENV and run this again."
}

# The stamp is written last, so an installation that broke half-way is taken up again; it names the lock's content, so
# a changed lock is installed. The test lock holds all of the other one.
wanted="$(cat "$ROOT/pyproject.toml" "$ROOT/requirements/run.txt" "$ROOT/requirements/test.txt" | cksum)"
stamp="$VENV/.gradlab-$(basename "$SETUP_LOCK" .txt)"
if [ "$(cat "$stamp" "$VENV/.gradlab-test" 2>/dev/null | head -n 1)" != "$wanted $ROOT" ]; then
    mkdir -p "$(dirname "$VENV")"
    # Two set-ups at once would write over each other; the second waits and then finds all done.
    exec 9>"$VENV.lock"
    if command -v flock >/dev/null; then flock 9; fi
    if [ "$(cat "$stamp" "$VENV/.gradlab-test" 2>/dev/null | head -n 1)" != "$wanted $ROOT" ]; then
        make_environment
        printf '%s %s\n' "$wanted" "$ROOT" >"$stamp"
        say "done: $(du -sh "$VENV" | cut -f1) in $VENV"
    fi
    exec 9>&-
fi
