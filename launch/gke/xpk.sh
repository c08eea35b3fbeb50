#!/bin/bash
# CLUSTER=... TYPE=v5litepod-64 IMAGE=... launch/gke/xpk.sh --config configs/hdtf.py --workdir /shared/runs/hdtf
# DRY_RUN=1 only prints.
set -eu
: "${CLUSTER:?name of the cluster}" "${TYPE:?e.g. v5litepod-64}" "${IMAGE:?image of launch/Dockerfile}"
# Another shell reads the command: each argument is quoted for it.
printf -v train '%q ' python -m reta_jax.train "$@"
command=(xpk workload create --cluster "$CLUSTER" --workload "${NAME:-reta}" --tpu-type "$TYPE"
    --docker-image "$IMAGE" --max-restarts 20 --command "${train% }")
if [[ -n "${DRY_RUN:-}" ]]; then echo "${command[@]}"; else exec "${command[@]}"; fi
