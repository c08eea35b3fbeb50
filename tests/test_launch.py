"""The launch files: well formed, and every one ends in a command that exists.

Scripts by shellcheck and by running them dry; SLURM's by stand-ins for its commands; the Dockerfile
by hadolint; YAML by the published schema of a Kubernetes Job, and of JobSet and SkyPilot by the
fields that their versions of 2026 have.
"""

import os
import re
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from absl import flags

from configs import hdtf
from data_pipeline import prepare
from data_pipeline.commands import EXIT_TRANSIENT, EXIT_USAGE
from reta_jax import train
from reta_jax.commands import EXIT_BAD_INPUT, EXIT_DIVERGED

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
ARGUMENTS = ["--config", "configs/hdtf.py", "--workdir", "/shared/run"]


KUBERNETES = "1.33"


def tool(name: str, *arguments: str) -> None:
    """Runs a linter that came with the `dev` extra."""
    program = Path(sysconfig.get_path("scripts")) / name
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def dry_run(script: Path, *arguments: str, **variables: str) -> list[str]:
    environment = os.environ | {"DRY_RUN": "1", "PYTHON": "python"} | variables
    done = subprocess.run([script, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(LAUNCH)))
def test_scripts_parse(script):
    shell = script.read_text().splitlines()[0].removeprefix("#!")
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert os.access(script, os.X_OK)
    tool("shellcheck", str(script))


@pytest.mark.parametrize(
    "script, variables, own",
    [
        ("local.sh", {}, []),
        ("slurm/train.sbatch", {}, []),
        ("tpu/pod.sh", {"TPU": "a", "ZONE": "b"}, ["--distributed=on"]),
        ("gke/xpk.sh", {"CLUSTER": "a", "TYPE": "v5litepod-64", "IMAGE": "b"}, []),
    ],
)
def test_training_launchers_pass_their_arguments_on(script, variables, own):
    (line,) = dry_run(LAUNCH / script, *ARGUMENTS, **variables)
    assert line.endswith(" ".join(["-m reta_jax.train", *own, *ARGUMENTS]))


@pytest.mark.parametrize(
    "script, variables, own",
    [
        ("tpu/pod.sh", {"TPU": "a", "ZONE": "b"}, ["--distributed=on"]),
        ("gke/xpk.sh", {"CLUSTER": "a", "TYPE": "b", "IMAGE": "c"}, []),
    ],
)
def test_arguments_come_through_the_shell_that_reads_them_again(script, variables, own, tmp_path):
    """The engine's stand-in has a shell run the last of its own arguments, as hosts do."""
    for name in ("gcloud", "xpk"):
        (tmp_path / name).write_text('#!/bin/bash\nexec sh -c "${@: -1}"\n')
    for name in ("python", "reta_jax/.venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    for file in tmp_path.rglob("*"):
        file.chmod(0o755)
    arguments = [*ARGUMENTS, "--config.data.dirs=('/shared/a b', \"$HOME\")"]
    done = subprocess.run(
        [LAUNCH / script, *arguments],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | variables,
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["-m", "reta_jax.train", *own, *arguments], done.stderr


SAVING = """#!/bin/sh
# In place of the training: saves for a while when it is told to leave.
trap 'sleep 0.3; echo saved >>saved; exit 75' TERM
echo >>started
for _ in $(seq 600); do sleep 0.05; done
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stopped_local_training_saves_before_the_script_ends(processes, tmp_path):
    (tmp_path / "python").write_text(SAVING)
    (tmp_path / "python").chmod(0o755)
    environment = os.environ | {"PYTHON": "./python", "PROCESSES": str(processes)}
    count = lambda name: len((tmp_path / name).read_bytes()) if (tmp_path / name).exists() else 0
    with subprocess.Popen([LAUNCH / "local.sh"], env=environment, cwd=tmp_path) as script:
        deadline = time.monotonic() + 30
        while count("started") < processes and time.monotonic() < deadline:
            time.sleep(0.02)
        script.terminate()
        assert script.wait(30) == 75
        assert (tmp_path / "saved").read_text() == "saved\n" * processes


def test_local_processes_are_numbered():
    lines = dry_run(LAUNCH / "local.sh", *ARGUMENTS, PROCESSES="2")
    numbers = {re.search(r"--num_processes 2 --process_id (\d)$", line).group(1) for line in lines}
    assert numbers == {"0", "1"}


def test_every_shard_of_an_array_is_prepared():
    variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}
    (line,) = dry_run(LAUNCH / "slurm/prepare.sbatch", "hdtf", "--raw=a", "--out=b", **variables)
    assert "data_pipeline.prepare hdtf --raw=a --out=b --shard 3/16" in line


# SLURM, by stand-ins

SRUN = """#!/bin/bash
# Two tasks on this machine, as srun starts them: its own options, then the command.
while [[ $1 == --* ]]; do shift; done
code=0
for task in 0 1; do
    SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit $code
"""
JOIN = """#!/bin/bash
# In place of the training: the way into a cluster alone.
exec {python} - "$@" <<'END'
import sys
from reta_jax import parallel

parallel.join_cluster("auto")
import jax

total = sum(parallel.any_process(index == jax.process_index()) for index in range(2))
words = "task", jax.process_index(), "of", jax.process_count(), total, *sys.argv[1:]
# Not to the pipe, where both tasks and Gloo write into each other's lines.
with open(f"{folder}/heard{{jax.process_index()}}", "w") as file:
    print(*words, file=file)
parallel.meet()
END
"""
SCONTROL = '#!/bin/sh\necho scontrol "$@"\n'


def run_batch_script(folder: Path, python: str, **variables: str) -> tuple[int, list[str]]:
    """train.sbatch where `python` is the script given: its exit code and what it printed."""
    for name, text in (("srun", SRUN), ("python", python), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_FLAGS", "SLURM"))}
    environment |= {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHON": str(folder / "python"),
        "PYTHONPATH": str(LAUNCH.parent),
        "JAX_PLATFORMS": "cpu",
        "SLURM_JOB_ID": str(_free_job()),
    } | variables
    # A CPU build of XLA knows no flag of NCCL's and would end: the script adds it for GPUs.
    script = (LAUNCH / "slurm/train.sbatch").read_text().replace("export XLA_FLAGS", "XLA_FLAGS")
    done = subprocess.run(
        ["bash", "-c", script, "train.sbatch", *ARGUMENTS],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if not line.startswith("[Gloo]")]
    return done.returncode, sorted(lines)


def _free_job() -> int:
    """A job whose number gives a port that is free: jax takes 61440 + number % 4096."""
    for job in range(os.getpid() % 4096, 8192):
        with socket.socket() as free:
            if free.connect_ex(("localhost", 61440 + job % 4096)):
                return job
    raise RuntimeError("no free port")


def test_tasks_of_a_slurm_job_find_each_other(tmp_path):
    """Through train.sbatch, by jax's own detection; each hears the other in a collective."""
    code, _ = run_batch_script(tmp_path, JOIN.format(python=sys.executable, folder=tmp_path))
    arguments = "-m reta_jax.train " + " ".join(ARGUMENTS)
    heard = [(tmp_path / f"heard{i}").read_text() for i in range(2)]
    assert (code, heard) == (0, [f"task {i} of 2 2 {arguments}\n" for i in range(2)])


@pytest.mark.parametrize("restarts", ["0", "19", "20"])
@pytest.mark.parametrize("code", [0, 1, 2, 70, 74, 75, 128 + 9, 128 + 15])
def test_a_slurm_job_is_queued_again_where_that_may_help(tmp_path, code, restarts):
    """After it has saved always; else not for ever, for each start may end so."""
    found, lines = run_batch_script(
        tmp_path, f"#!/bin/sh\nexit {code}\n", SLURM_RESTART_COUNT=restarts
    )
    assert found == code
    if code == 75 or ((code == EXIT_TRANSIENT or code > 128) and restarts != "20"):
        assert re.fullmatch(r"scontrol requeue \d+", lines[0])
    else:
        assert lines == []


@pytest.mark.parametrize("script", ["slurm/train.sbatch", "slurm/prepare.sbatch"])
def test_what_slurm_queues_again_keeps_its_log(script):
    """SLURM's own default begins the file anew at each start."""
    lines = (LAUNCH / script).read_text().splitlines()
    assert {"#SBATCH --requeue", "#SBATCH --open-mode=append"} <= set(lines)


def test_a_slurm_task_that_ends_first_does_not_end_the_others():
    """They still save, or see who died."""
    assert "srun --kill-on-bad-exit=0 " in dry_run(LAUNCH / "slurm/train.sbatch")[0]


# YAML


@pytest.mark.parametrize("name", ["kubernetes/jobset.yaml", "skypilot/train.yaml"])
def test_flags_in_yaml_exist(name):
    command = (LAUNCH / name).read_text().rpartition("reta_jax.train")[2]
    used = set(re.findall(r"--(\w+)[= ]", command))
    defined = {flag.name for flag in flags.FLAGS.flags_by_module_dict()[train.__name__]}
    assert {"config", "workdir", "coordinator", "num_processes", "process_id"} <= used <= defined


def closed(**properties) -> dict:
    """The schema of an object with these fields and no others; `_x` is one that must be there."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name[1:] for name in properties if name.startswith("_")],
        "properties": {name.lstrip("_"): value for name, value in properties.items()},
    }


TEXT, COUNT, FLAG, ANY = (
    {"type": "string"},
    {"type": "integer", "minimum": 0},
    {"type": "boolean"},
    {},
)
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
JOBSET = closed(
    _apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    _kind={"const": "JobSet"},
    _metadata=closed(
        _name=NAME, namespace=NAME, labels={"type": "object", "additionalProperties": TEXT},
        annotations={"type": "object", "additionalProperties": TEXT},
    ),
    _spec=closed(
        _replicatedJobs={
            "type": "array",
            "minItems": 1,
            "items": closed(
                _name=NAME, replicas=COUNT, groupName=TEXT, dependsOn=ANY,
                _template={"type": "object"},  # of a Job: judged by its own schema
            ),
        },
        network=closed(enableDNSHostnames=FLAG, subdomain=NAME, publishNotReadyAddresses=FLAG),
        successPolicy=ANY, startupPolicy=ANY, coordinator=ANY, suspend=FLAG, managedBy=TEXT,
        failurePolicy=closed(
            maxRestarts=COUNT, restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules={
                "type": "array",
                "items": closed(
                    name=NAME, targetReplicatedJobs={"type": "array", "items": NAME},
                    _action={"enum": [
                        "FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts",
                    ]},
                    onJobFailureReasons={"type": "array", "items": {"enum": [
                        "BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes",
                        "MaxFailedIndexesExceeded", "PodFailurePolicy",
                    ]}},
                ),
            },
        ),
        ttlSecondsAfterFinished=COUNT,
    ),
)  # fmt: skip
SKYPILOT = closed(
    name=TEXT, workdir=TEXT, num_nodes=COUNT, setup=TEXT, _run=TEXT,
    resources=closed(
        infra=TEXT, accelerators=TEXT, use_spot=FLAG, disk_size=COUNT, cpus=ANY, memory=ANY,
        instance_type=TEXT, image_id=TEXT, job_recovery=ANY, ports=ANY,
    ),
    file_mounts={
        "type": "object",
        "additionalProperties": closed(
            name=TEXT, source=TEXT, store=TEXT, persistent=FLAG,
            mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]},
        ),
    },
    envs={"type": "object", "additionalProperties": TEXT},
)  # fmt: skip


def load(name: str) -> dict:
    return yaml.safe_load((LAUNCH / name).read_text())


def load_pod() -> dict:
    return job_of(load("kubernetes/jobset.yaml"))["spec"]["template"]["spec"]


def job_of(jobset: dict) -> dict:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": replicated["name"]}}
    return job | replicated["template"]


def test_the_jobset_has_fields_that_exist():
    jobset = load("kubernetes/jobset.yaml")
    jsonschema.validate(jobset, JOBSET)
    kubernetes_validate.validate(job_of(jobset), KUBERNETES, strict=True)


def test_wrong_fields_of_a_jobset_are_seen():
    jobset = load("kubernetes/jobset.yaml")
    jobset["spec"]["failurePolicy"]["maxRestart"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(jobset, JOBSET)
    job = job_of(jobset)
    job["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_the_rights_are_those_that_detection_needs():
    account, role, binding = load("kubernetes/rbac.yaml")["items"]
    for item in (account, role, binding):
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [account["metadata"]["name"]]
    allowed = {name: rule["verbs"] for rule in role["rules"] for name in rule["resources"]}
    # What jax._src.clusters.k8s_cluster asks for.
    assert allowed == {"pods": ["list"], "services": ["list"], "jobs": ["get"]}


def test_the_jobset_agrees_with_itself():
    """Its numbers of hosts and devices, its names, its volumes, and the way back after a stop."""
    jobset = load("kubernetes/jobset.yaml")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    arguments = dict(argument.lstrip("-").split("=", 1) for argument in container["args"])
    hosts = job["completions"]
    assert job["parallelism"] == hosts == int(arguments["num_processes"])
    assert job["completionMode"] == "Indexed" and replicated["replicas"] == 1
    name = jobset["metadata"]["name"]
    assert arguments["coordinator"].split(":")[0] == f"{name}-{replicated['name']}-0-0.{name}"
    devices = hosts * container["resources"]["limits"]["nvidia.com/gpu"]
    assert int(arguments["config.train.expected_devices"]) == devices
    assert (LAUNCH.parent / arguments["config"].removeprefix("/app/")).is_file()
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["workingDir"] in mounts  # below which data, weights and workdir are
    volumes = {volume["name"] for volume in job["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    # A pod that leaves with 75 fails its job at once, and the set is made anew.
    assert job["backoffLimit"] == 0 and job["template"]["spec"]["restartPolicy"] == "Never"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0


def test_the_jobset_ends_where_the_same_would_come_again():
    """After bad input and after a loss that is no number, and not after a stop."""
    jobset = load("kubernetes/jobset.yaml")
    job = job_of(jobset)["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [EXIT_BAD_INPUT, EXIT_DIVERGED],
    }
    assert EXIT_TRANSIENT not in rule["onExitCodes"]["values"]
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}


@pytest.mark.parametrize("name", ["prepare", "merge"])
def test_the_jobs_for_data_have_fields_that_exist(name):
    job = load(f"kubernetes/{name}.yaml")
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][:3] == ["python", "-m", f"data_pipeline.{name}"]


def test_the_jobs_for_data_agree_with_each_other_and_with_training():
    """Each source is in one shard, and what they make is merged where training looks for it."""
    job = load("kubernetes/prepare.yaml")["spec"]
    pods = [job["template"]["spec"], load("kubernetes/merge.yaml")["spec"]["template"]["spec"]]
    (training, *_), volumes = (load_pod()[part] for part in ("containers", "volumes"))
    (shards, merging), folders = zip(
        *((p["containers"][0], p["volumes"]) for p in pods), strict=True
    )
    assert [*folders] == [volumes[:1]] * 2
    assert shards["workingDir"] == merging["workingDir"] == training["workingDir"]
    assert job["completionMode"] == "Indexed" and shards["env"] == training["env"]
    parser = prepare.make_parser("prepare")
    tasks = [
        parser.parse_args([a.replace("$(JOB_COMPLETION_INDEX)", str(i)) for a in shards["args"]])
        for i in range(job["completions"])
    ]
    assert sorted(i for task in tasks for i in task.shard.take(range(100))) == [*range(100)]
    assert tasks[0].workers == shards["resources"]["requests"]["cpu"]
    assert merging["command"][3:] == [str(tasks[0].out)] == list(hdtf.get_config().data.dirs)


def test_preparation_ends_where_the_same_would_come_again():
    """Bad input ends the job; a source that failed is tried again; a lost node counts nothing."""
    job = load("kubernetes/prepare.yaml")["spec"]
    lost, bad = job["podFailurePolicy"]["rules"]
    condition = {"type": "DisruptionTarget", "status": "True"}
    assert lost == {"action": "Ignore", "onPodConditions": [condition]}
    (container,) = job["template"]["spec"]["containers"]
    codes = {"containerName": container["name"], "operator": "In", "values": [EXIT_USAGE]}
    assert bad == {"action": "FailJob", "onExitCodes": codes}
    assert job["backoffLimitPerIndex"] > 0


def test_the_skypilot_task_has_fields_that_exist():
    task = load("skypilot/train.yaml")
    jsonschema.validate(task, SKYPILOT)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(task | {"numnodes": 2}, SKYPILOT)


@pytest.mark.parametrize("part", ["setup", "run"])
def test_scripts_inside_the_skypilot_task_are_sound(part, tmp_path):
    script = tmp_path / "part.sh"
    script.write_text("#!/bin/bash\n" + load("skypilot/train.yaml")[part])
    tool("shellcheck", str(script))


# The image


def test_the_image_is_sound_and_runs_as_nobody_special():
    tool("hadolint", str(LAUNCH / "Dockerfile"))
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    stages = [i for i, line in enumerate(lines) if line.startswith("FROM ")]
    assert len(stages) == 2 and len({lines[i].split()[1] for i in stages}) == 1  # one Python
    last = lines[stages[-1] :]
    (user,) = (line.split()[1] for line in last if line.startswith("USER "))
    assert int(user) > 0
    installed = " ".join(last).partition("--no-install-recommends ")[2].split()
    assert {"libegl1", "libgles2"} <= set(installed)  # MediaPipe's
    copied = [line for line in last if line.startswith("COPY ")]
    assert copied and all("--from=install" in line for line in copied)


def test_what_the_image_copies_is_not_a_workplace():
    """Data, environments and runs of the checkout stay out of the image's layers."""
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().split()
    assert {".git", ".venv", "data", "runs", "demo*"} <= set(ignored)


def test_the_table_names_every_file():
    table = (LAUNCH / "README.md").read_text()
    for file in [*SCRIPTS, *LAUNCH.rglob("*.yaml"), LAUNCH / "Dockerfile"]:
        assert f"launch/{file.relative_to(LAUNCH)}" in table
