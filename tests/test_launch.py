"""The launch files: well formed, and every one ends in a command that exists."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from absl import flags

from reta_jax import train

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
ARGUMENTS = ["--config", "configs/hdtf.py", "--workdir", "/shared/run"]


def dry_run(script: Path, *arguments: str, **variables: str) -> list[str]:
    shell = "bash" if script.suffix == ".sbatch" else "sh"
    environment = os.environ | {"DRY_RUN": "1", "PYTHON": "python"} | variables
    done = subprocess.run(
        [shell, str(script), *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(LAUNCH)))
def test_scripts_parse(script):
    shell = "bash" if script.suffix == ".sbatch" else "sh"
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    "script, variables",
    [
        ("local.sh", {}),
        ("slurm/train.sbatch", {}),
        ("tpu/pod.sh", {"TPU": "a", "ZONE": "b"}),
        ("gke/xpk.sh", {"CLUSTER": "a", "TYPE": "v5litepod-64", "IMAGE": "b"}),
    ],
)
def test_training_launchers_pass_their_arguments_on(script, variables):
    (line,) = dry_run(LAUNCH / script, *ARGUMENTS, **variables)
    assert line.endswith("-m reta_jax.train " + " ".join(ARGUMENTS))


def test_local_processes_are_numbered():
    lines = dry_run(LAUNCH / "local.sh", *ARGUMENTS, PROCESSES="2")
    numbers = {re.search(r"--num_processes 2 --process_id (\d)$", line).group(1) for line in lines}
    assert numbers == {"0", "1"}


def test_every_shard_of_an_array_is_prepared():
    variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}
    (line,) = dry_run(LAUNCH / "slurm/prepare.sbatch", "hdtf", "--raw=a", "--out=b", **variables)
    assert "data_pipeline.prepare hdtf --raw=a --out=b --shard 3/16" in line


@pytest.mark.parametrize("file", sorted(LAUNCH.rglob("*.yaml")), ids=lambda path: path.name)
def test_yaml_is_well_formed_and_its_flags_exist(file):
    assert isinstance(yaml.safe_load(file.read_text()), dict)
    used = set(re.findall(r"--(coordinator|num_processes|process_id|workdir)\b", file.read_text()))
    defined = {flag.name for flag in flags.FLAGS.flags_by_module_dict()[train.__name__]}
    assert len(used) == 4 and used <= defined
