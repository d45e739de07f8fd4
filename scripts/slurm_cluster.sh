#!/usr/bin/env bash
# A SLURM cluster of this one machine, for trying sweeps and for the slow tests:
#
#   bash scripts/slurm_cluster.sh start FOLDER [nodes] [cores of each]
#   export SLURM_CONF=FOLDER/slurm.conf        # then sinfo, squeue, and hydra.launcher.executor=slurm
#   bash scripts/slurm_cluster.sh stop FOLDER
#
# slurmctld, a slurmd for each node, and munged run as the calling user, from Debian's packages (scripts/services.sh), with
# keys, logs and state in FOLDER; the machine's own SLURM is not touched. Nodes are so many in name only: two of them
# share the machine's cores. Jobs of the partition `urgent` take the place of those of `batch`, which are requeued.
set -euo pipefail

usage() {
    sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

[ "$#" -ge 2 ] || usage
action="$1"
mkdir -p "$2"
folder="$(cd "$2" && pwd -P)"
nodes="${3:-2}"
cores="${4:-2}"
pids="$folder/pids"

stop() {
    local pid
    [ -e "$pids" ] || return 0
    while read -r pid; do kill "$pid" 2>/dev/null || true; done <"$pids"
    for _ in $(seq 50); do
        pgrep --pidfile "$pids" >/dev/null 2>&1 || kill -0 "$(tail -n 1 "$pids")" 2>/dev/null || break
        sleep 0.1
    done
    while read -r pid; do kill -9 "$pid" 2>/dev/null || true; done <"$pids"
    rm -f "$pids"
    # Of munged's socket, outside: its folder is the link's target, and nothing else of that name is.
    socket="$(readlink "$folder/munge" || true)"
    if [[ "$socket" == /tmp/gradlab-munge-?????? ]]; then rm -rf "$socket" "$folder/munge"; fi
}

start() {
    local user host port names program
    for program in munged slurmctld slurmd; do
        PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || {
            echo "slurm_cluster: $program is missing; bash scripts/services.sh installs it." >&2
            exit 1
        }
    done
    PATH="$PATH:/usr/sbin"
    [ ! -e "$pids" ] || stop
    user="$(id -un)"
    host="$(hostname -s)"
    port=$((20000 + RANDOM % 10000))
    names="n[1-$nodes]"
    mkdir -p "$folder"/{state,log,spool}
    chmod 700 "$folder"
    : >"$pids"

    # munged wants a key that only its user can read, and a socket in a folder that everyone may enter.
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    socket="$(mktemp -d /tmp/gradlab-munge-XXXXXX)"
    chmod 711 "$socket"
    ln -sfn "$socket" "$folder/munge"
    munged --foreground --key-file="$folder/munge.key" --socket="$socket/socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed" >"$folder/log/munged.out" 2>&1 &
    echo $! >>"$pids"

    cat >"$folder/slurm.conf" <<CONF
ClusterName=gradlab
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$socket/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,requeue_setup_env_fail
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=10
MinJobAge=60
SlurmdTimeout=10
InactiveLimit=0
OverTimeLimit=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PlugStackConfig=$folder/plugstack.conf
NodeName=$names NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$cores State=UNKNOWN
PartitionName=batch Nodes=$names Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=urgent Nodes=$names MaxTime=60 PriorityTier=10 PreemptMode=OFF
CONF
    : >"$folder/plugstack.conf"
    export SLURM_CONF="$folder/slurm.conf"
    wait_for 10 test -S "$socket/socket"
    slurmctld -D >"$folder/log/slurmctld.out" 2>&1 &
    echo $! >>"$pids"
    for number in $(seq "$nodes"); do
        slurmd -D -N "n$number" >"$folder/log/slurmd.n$number.out" 2>&1 &
        echo $! >>"$pids"
    done
    wait_for 60 all_idle || {
        sinfo >&2 || true
        tail -n 5 "$folder"/log/*.log "$folder"/log/*.out >&2
        stop
        exit 1
    }
    echo "export SLURM_CONF=$SLURM_CONF"
}

all_idle() { [ "$(sinfo --noheader --partition batch --states idle --format %D 2>/dev/null | head -n 1)" = "$nodes" ]; }

wait_for() {
    local seconds="$1"
    shift
    for _ in $(seq $((seconds * 5))); do
        if "$@"; then return 0; fi
        sleep 0.2
    done
    return 1
}

case "$action" in
    start) start ;;
    stop) stop ;;
    *) usage ;;
esac
