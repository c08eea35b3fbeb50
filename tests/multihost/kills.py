"""Kills a run again and again, goes on each time, and compares it with a run that nobody killed.

    python tests/multihost/kills.py FOLDER [KILLS]

Half of the kills (SIGKILL) come while a checkpoint is written, the others within seconds of a
start: imports are made by then, but nothing else. Prints a line for each and a last one, as JSON;
fails if the two runs do not end with the same numbers.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # most of the time is compilation
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from data_pipeline.prepare import prepare_synthetic
from reta_jax import train
from reta_jax.checkpoint import find_damage
from reta_jax.weights import flatten, load_weights
from tests.light import light_config


def make_config(data: Path, steps: int):
    return light_config(
        data, frames=1, steps=steps, save_every=1, decay=False, eds=False,
        adversarial_start=1_000_000, preview_every=1_000_000,
    )  # fmt: skip


def start(config, workdir: Path) -> int:
    """A run in a process of its own, without the imports that take longer than the rest.

    This process itself reads no records and asks for no devices: their threads do not outlive fork.
    """
    if child := os.fork():
        return child
    log = os.open(workdir.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        import jax

        # Of its own: what is killed while it writes leaves half an entry.
        jax.config.update("jax_compilation_cache_dir", str(workdir.parent / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        train.run(config, workdir)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def is_writing(checkpoints: Path) -> bool:
    return any(checkpoints.glob("*.orbax-checkpoint-tmp*"))


def saved_steps(checkpoints: Path) -> list[int]:
    return sorted(int(path.name) for path in checkpoints.glob("*") if path.name.isdecimal())


def kill(child: int, workdir: Path, chance: random.Random, while_saving: bool) -> dict:
    """Kills while this start's second checkpoint is written, or within seconds of the start."""
    checkpoints = workdir / "checkpoints"
    before = saved_steps(checkpoints)
    if while_saving:
        wait_until(lambda: saved_steps(checkpoints)[-1:] > before[-1:], child, workdir)
        wait_until(lambda: is_writing(checkpoints), child, workdir)
        time.sleep(chance.uniform(0.0, 0.3))
    else:
        time.sleep(chance.uniform(0.0, 10.0))
    os.kill(child, 9)
    wait(child)
    steps = saved_steps(checkpoints)
    return {
        "left": steps,
        "half_written": while_saving and is_writing(checkpoints),
        "damaged": [step for step in steps if find_damage(checkpoints / str(step))],
    }


def wait_until(condition: Callable[[], bool], child: int, workdir: Path) -> None:
    while not condition():
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            log = workdir.with_suffix(".log").read_text()
            raise SystemExit(f"the run ended by itself with {wait(child)}:\n{log}")
        time.sleep(0.002)


def main(folder: Path, kills: int) -> None:
    chance = random.Random(0)
    data, straight, killed = folder / "data", folder / "straight", folder / "killed"
    if not (child := os.fork()):
        prepare_synthetic(data, identities=4, clips_per_identity=2, seconds=1, size=32, workers=1)
        os._exit(0)
    if wait(child):
        raise SystemExit("no data")
    config = make_config(data, steps=1_000)
    moments = []
    for number in range(kills):
        child = start(config, killed)
        moments.append(kill(child, killed, chance, while_saving=number % 2 == 0))
        print(json.dumps({"kill": number + 1} | moments[-1]), flush=True)
    config.train.steps = max([0, *moments[-1]["left"]] if moments else [0]) + 3
    begun = time.monotonic()
    for workdir in (killed, straight):
        if wait(start(config, workdir)):
            raise SystemExit(workdir.with_suffix(".log").read_text())
    ours, theirs = (flatten(load_weights(path / "weights")[0]) for path in (killed, straight))
    differ = [name for name in theirs if not np.array_equal(ours[name], theirs[name])]
    went_on = killed.with_suffix(".log").read_text().count("going on from step")
    total = {
        "kills": kills,
        "while_saving": sum(moment["half_written"] for moment in moments),
        "damaged": sum(len(moment["damaged"]) for moment in moments),
        "went_on": went_on,
        "steps": config.train.steps,
        "arrays": len(theirs),
        "differ": differ,
        "seconds_of_the_last_two_runs": round(time.monotonic() - begun, 1),
    }
    print(json.dumps(total), flush=True)
    if differ or total["damaged"]:
        raise SystemExit(1)


if __name__ == "__main__":
    from absl import flags

    flags.FLAGS.mark_as_parsed()
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    main(target, int(sys.argv[2]) if len(sys.argv) > 2 else 20)
