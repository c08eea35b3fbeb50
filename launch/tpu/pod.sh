#!/bin/bash
# TPU=name ZONE=us-central2-b launch/tpu/pod.sh --config configs/hdtf.py --workdir /shared/runs/hdtf
# Runs the command on every worker of a Cloud TPU slice, in a clone of the project at ~/reta_jax
# whose set-up is `make install` and `.venv/bin/python -m uv pip install -c constraints.txt
# --overrides overrides.txt -e '.[tpu]'`. DRY_RUN=1 only prints.
# A TPU VM's environment does not tell that it is one of several: jax asks its metadata server.
set -eu
: "${TPU:?name of the TPU}" "${ZONE:?its zone}"
# Another shell reads the command: each argument is quoted for it.
printf -v train ' %q' .venv/bin/python -m reta_jax.train --distributed=on "$@"
command=(gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all
    --command "cd reta_jax &&$train")
if [[ -n "${DRY_RUN:-}" ]]; then echo "${command[@]}"; else exec "${command[@]}"; fi
