#!/usr/bin/env bash
# A sweep over all GPUs of this machine, left alone overnight:
#
#   bash scripts/sweep_gpus.sh experiment=optimizers 'seed=range(5)' hydra.launcher.runs_per_gpu=2
#   CUDA_VISIBLE_DEVICES=0,1,MIG-… bash scripts/sweep_gpus.sh …       # some of them, or slices of them
#
# It goes on when the terminal is closed, and is started again, up to 20 times, where its process is killed (by a kernel short of
# memory, for instance): what is done is not done again. Everything it says is in the log that it names. With trainer=cpu among
# the arguments it rehearses the same on the CPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "$#" -eq 0 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
device=trainer=cuda
for word in "$@"; do
    case "$word" in trainer=*) device="" ;; esac
done
if [ -n "$device" ] && [ -z "${CUDA_VISIBLE_DEVICES-}" ] && ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
    echo "sweep_gpus: this machine has no NVIDIA GPU. To rehearse on the CPU, add trainer=cpu." >&2
    exit 1
fi

if [ -z "${GRADLAB_SWEEP_LOG-}" ]; then # not yet on its own
    mkdir -p outputs
    GRADLAB_SWEEP_LOG="outputs/sweep_$(date +%Y-%m-%d_%H-%M-%S).log"
    export GRADLAB_SWEEP_LOG
    bash scripts/train.sh --cfg job >/dev/null # sets up, where that is not done
    setsid nohup bash scripts/sweep_gpus.sh "$@" </dev/null >>"$GRADLAB_SWEEP_LOG" 2>&1 &
    echo "the sweep is process $!; follow it with: tail -f $GRADLAB_SWEEP_LOG"
    exit 0
fi

for attempt in $(seq 20); do
    status=0
    bash scripts/train.sh -m ${device:+"$device"} "$@" resume=true || status=$?
    case "$status" in
        0 | 1 | 2 | 130 | 143) break ;; # it has come to its end, is wrong, or was told to end
    esac
    echo "sweep_gpus: the sweep was killed (exit status $status); it goes on, attempt $attempt" >&2
    sleep 5
done
exit "$status"
