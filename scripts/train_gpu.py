"""Trains RETA in slices, on a GPU that you have for minutes at a time; only small files travel.

    python scripts/train_gpu.py --config configs/corpus.py --data data/slice --slice slices

goes on from the slice in slices/ (the first time, from the config's start), trains for at most
--minutes with everything counted, and leaves the next slice there: fewer than eight files, 16 MB
each at most, 60 MB together. Ctrl-C and SIGTERM pack what there is and leave with exit code 75. The
same command goes on, on this machine or another that has the folder; other --data may be given
each time.

    python scripts/train_gpu.py pack-data --data data/corpus --out data/slice --megabytes 40

draws so many megabytes of clips out of a prepared data set, with another --seed other clips, and
with --size 64 as pictures of that side.

    python scripts/train_gpu.py --slice slices --export model

writes the slice's model for reta_jax.render --checkpoint model (with --config, after training).
"""

# ruff: noqa: E402
import time

STARTED = time.monotonic()  # Before the imports, which take seconds.

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # A bare machine has nothing installed.

import jax
from absl import flags

from data_pipeline.errors import InputError
from data_pipeline.subset import write_subset
from reta_jax.commands import run_with_flags
from reta_jax.slice_training import train_slice  # defines --config
from reta_jax.slices import export_slice

_SLICE = flags.DEFINE_string("slice", None, "Folder of the slice.")
_DATA = flags.DEFINE_string("data", None, "Prepared data set; default data.dirs of the config.")
_MINUTES = flags.DEFINE_float("minutes", 9.0, "Of wall time, start and packing included.")
_EXPORT = flags.DEFINE_string("export", None, "Folder to write the slice's model to.")
_EXACT = flags.DEFINE_bool("exact", False, "Moments and average travel in float32.")
_CHANGE = flags.DEFINE_list("change", [], "Fields of the config that are new on purpose.")
_OUT = flags.DEFINE_string("out", None, "pack-data: the folder to write.")
_MEGABYTES = flags.DEFINE_float("megabytes", 40.0, "pack-data: at most.")
_SEED = flags.DEFINE_integer("seed", 0, "pack-data: which clips.")
_SIZE = flags.DEFINE_integer("size", 0, "pack-data: side to reduce pictures to; 0 leaves them.")


def main(argv: list[str]) -> None:
    jax.config.update("jax_platforms", "cpu")  # The device is the training process's alone.
    if argv[1:] == ["pack-data"]:
        return pack()
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}")
    folder = Path(_given(_SLICE))
    config = flags.FLAGS["config"].value
    if config is None and not _EXPORT.value:
        raise InputError("no experiment given: say --config configs/corpus.py")
    code = 0
    if config is not None:
        if _DATA.value:
            changes = {"dirs": (_DATA.value,), "weights": (1.0,), "synthetic_identities": 0}
            config.data.update(changes)
        code = train_slice(
            config, folder, _MINUTES.value, STARTED, _EXACT.value, changes=_CHANGE.value
        )
    if _EXPORT.value:
        export_slice(folder, Path(_EXPORT.value))
        print(f"model in {_EXPORT.value}")
    sys.exit(code)


def pack() -> None:
    out = Path(_given(_OUT))
    taken = write_subset(_given(_DATA), out, _MEGABYTES.value, _SEED.value, _SIZE.value)
    print(
        f"{out}: {taken.clips} clips of {taken.identities} people, {taken.bytes / 1e6:.1f} MB",
        flush=True,
    )


def _given(flag: flags.FlagHolder) -> str:
    if flag.value is None:
        raise InputError(f"no --{flag.name} given: say which folder")
    return flag.value


if __name__ == "__main__":
    run_with_flags(main)
