#!/bin/sh
# Trains on this machine: launch/local.sh --config configs/hdtf.py --workdir runs/hdtf
# PROCESSES=2 starts so many processes that share the work; DRY_RUN=1 only prints.
# SIGTERM goes on to the training, which saves and leaves; the script waits for it.
set -eu
PROCESSES=${PROCESSES:-1}
PYTHON=${PYTHON:-$(command -v .venv/bin/python || echo python)}
PORT=${PORT:-12355}

become() {
    if [ -n "${DRY_RUN:-}" ]; then echo "$@"; else exec "$@"; fi
}

if [ "$PROCESSES" = 1 ]; then
    become "$PYTHON" -m reta_jax.train "$@"
    exit
fi

pids=
stopped=
# $! is the process that was just started and is not among $pids yet.
trap 'stopped=1; kill -TERM $pids ${!:-} 2>/dev/null || true' INT TERM
index=0
while [ "$index" -lt "$PROCESSES" ] && [ -z "$stopped" ]; do
    become "$PYTHON" -m reta_jax.train "$@" --coordinator "localhost:$PORT" \
        --num_processes "$PROCESSES" --process_id "$index" &
    pids="$pids $!"
    index=$((index + 1))
done
code=0
for pid in $pids; do
    wait "$pid" || code=$?
    # A signal ends the wait before the process.
    while kill -0 "$pid" 2>/dev/null; do wait "$pid" || code=$?; done
done
exit "$code"
