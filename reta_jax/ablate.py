"""Trains every row of Tables 4, 9 and 10 with equal budgets: python -m reta_jax.ablate

Each row is trained with the same steps, batches and seeds, from the same E_I, G and E_A, with all
else drawn anew, and judged on people that none was trained on. The tables stand beside the paper's,
whose numbers are of other data and of another judge: what can be compared is the direction, and
each claim gets a verdict. An interrupted study goes on where it was; rows and seeds can be added.
At 64 px a run takes eight minutes of one core; at 32 px (--size) five, but faces show no emotion.

    python -m reta_jax.ablate --world synthetic --workdir ablation [--rows full,no_gpl] [--steps N]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from configs import ablations
from configs.judges import synthetic as judges_of_the_world
from data_pipeline.errors import InputError
from data_pipeline.prepare import prepare_synthetic
from reta_jax import train, train_expert
from reta_jax.claims import FIGURES, PAPER, ablation_sections, judge_claims
from reta_jax.commands import check_device, sentences_for_errors, set_up_xla
from reta_jax.config import upgraded
from reta_jax.evaluate import JUDGES, Judges, evaluate, load_judges
from reta_jax.files import file_digest, make_folder, write_json, write_whole
from reta_jax.metrics.cache import VERSION, clip_digests, digest
from reta_jax.metrics.protocol import Protocol, is_of_judge, judges_digests
from reta_jax.renderer import Renderer
from reta_jax.report import markdown_page
from reta_jax.stopping import EXIT_INTERRUPTED
from reta_jax.weights import (
    CONFIG_FILE,
    PARAMS_FILE,
    SYNTHETIC_WEIGHTS,
    config_to_dict,
    load_weights,
    save_weights,
)

SECONDS, CLIPS_PER_IDENTITY, IDENTITIES = 2.0, 6, 160
SYNC_BATCH, SYNC_STEPS = 16, 2_000
SYNC_EXPERT, BASE, JUDGED = "sync_expert", "base", "judged"
START_FILE, RESULT_FILE = "start.json", "result.json"  # of a run: what is behind it, its figures
PROTOCOL = Protocol(figures=("image", "sync", "emotion", "mouth"), sync_crops=("pipeline",))


class Study(NamedTuple):
    """What all runs of a study have in common."""

    workdir: Path
    data: Path
    size: int
    steps: int


def ablate(study: Study, rows: Sequence[str], seeds: Sequence[int]) -> bool:
    """Trains and judges what is not done yet; returns False when a signal stopped it.

    Seed by seed, so that the first tables are whole after one; they are written anew after each.
    """
    prepare_synthetic(
        study.data,
        identities=IDENTITIES,
        clips_per_identity=CLIPS_PER_IDENTITY,
        seconds=SECONDS,
        size=max(64, study.size),
    )
    if not (train_sync_expert(study) and prepare_start(study)):
        return False
    judging = _judging(study, load_judges(JUDGES))
    for number, seed in enumerate(seeds):
        for done, row in enumerate(rows, number * len(rows) + 1):
            print(f"== {done}/{len(rows) * len(seeds)}: {row}, seed {seed}", flush=True)
            if not train_row(study, row, seed):
                return False
        judge_rows(study, judging, rows, seed)
        write_tables(study.workdir, collect(study, judging))
    return True


class Judging(NamedTuple):
    """Who judges, and the digests that a result has if it was they who judged, on this data."""

    judges: Judges
    sha256: dict[str, str]


def _judging(study: Study, judges: Judges) -> Judging:
    data = digest(*clip_digests(study.data, PROTOCOL.split, PROTOCOL.clips))
    return Judging(judges, {"data": data, **judges_digests(judges.sha256)})


def train_sync_expert(study: Study) -> bool:
    """The teacher of L_syn, trained on the study's own training people if it is not there yet.

    False when a signal stopped it.
    """
    folder = study.workdir / SYNC_EXPERT
    if (folder / CONFIG_FILE).exists():
        return True
    config = judges_of_the_world.get_config("sync_expert")
    config.dirs = (str(study.data),)
    config.fields.update(ablations.get_config().experts.sync.fields)
    config.batch_size, config.steps = SYNC_BATCH, SYNC_STEPS
    is_finished = train_expert.run(config, folder) is not None
    jax.clear_caches()
    return is_finished


def prepare_start(study: Study) -> bool:
    """E_I, G and E_A of every row, if they are not there yet; False when a signal stopped it.

    At the shipped weights' size they are theirs, whose G knows expressions; else those of `:base`.
    """
    if (study.workdir / BASE / CONFIG_FILE).exists():
        return True
    config = on_data(study, "base")
    shipped, values = load_weights(SYNTHETIC_WEIGHTS)
    images, provenance = shipped, values["provenance"]
    if study.size != values["model"]["size"]:
        folder = run_folder(study, "base", config.train.seed)
        if not train.run(config, folder):
            return False
        images, values = load_weights(folder / "weights")
        provenance = [*provenance, *values.get("provenance", [])]
    start = {name: images[name] for name in ("image_encoder", "generator")}
    start["audio_encoder"] = shipped["audio_encoder"]
    fields = {"modulation": config.model.modulation}
    save_weights(
        study.workdir / BASE,
        start,
        {"kind": "image_networks", "fields": fields, "provenance": provenance},
    )
    return True


def configure(study: Study, row: str, seed: int) -> ConfigDict:
    """The row's config, with the study's data, common networks and budget."""
    config = on_data(study, row)
    config.experts.sync.weights = str(study.workdir / SYNC_EXPERT)
    config.init_from, config.init_partial = str(study.workdir / BASE), True
    config.train.seed, config.train.steps = seed, study.steps
    return config


def on_data(study: Study, row: str) -> ConfigDict:
    config = ablations.get_config(f"{row},{study.size}")
    config.data.dirs, config.data.synthetic_identities = (str(study.data),), 0
    return config


def run_folder(study: Study, row: str, seed: int) -> Path:
    return study.workdir / "runs" / f"{row}_seed{seed}"


def train_row(study: Study, row: str, seed: int) -> bool:
    """A run, if it is not done yet; False when a signal stopped it.

    Raises:
      InputError: it is of another budget, config, start or teacher, and would not compare.
    """
    config, folder = configure(study, row, seed), run_folder(study, row, seed)
    if not _is_of(config, folder):
        raise InputError(
            f"{folder} is of other settings (steps, size or config), or what {BASE} and "
            f"{SYNC_EXPERT} held was other: give another --workdir"
        )
    if (folder / "weights" / CONFIG_FILE).exists():
        return True
    (folder / RESULT_FILE).unlink(missing_ok=True)  # of weights that somebody took away
    if not (folder / START_FILE).exists():
        make_folder(folder)
        write_json(folder / START_FILE, start_of(config))
    is_finished = train.run(config, folder)
    jax.clear_caches()  # dozens of models' programs would fill the memory
    return is_finished


def _is_of(config: ConfigDict, folder: Path) -> bool:
    """Whether a run, as far as it has come, is one of this config and of the weights behind it."""
    start, weights = folder / START_FILE, folder / "weights" / CONFIG_FILE
    # A run of an older version does not say what it started from.
    if start.exists() and json.loads(start.read_text()) != start_of(config):
        return False
    if not weights.exists():
        return True
    saved = upgraded(json.loads(weights.read_text()))
    return settings_of(saved) == settings_of(config_to_dict(config))


def start_of(config: ConfigDict) -> dict[str, str]:
    """SHA-256 of the weights that a run starts from and of those that teach it, by their name."""
    folders = {name: expert.weights for name, expert in config.experts.items()}
    folders["init_from"] = config.init_from
    files = {name: Path(folder) / PARAMS_FILE for name, folder in folders.items()}
    return {name: file_digest(file) for name, file in files.items() if file.is_file()}


def settings_of(values: dict[str, Any]) -> str:
    """What a run is a run of: its config without its folders."""
    settings = {name: values[name] for name in ("model", "loss", "tvm")}
    settings["experts"] = {name: expert["fields"] for name, expert in values["experts"].items()}
    settings["train"] = {k: v for k, v in values["train"].items() if k != "max_minutes"}
    settings["data"] = {k: v for k, v in values["data"].items() if k != "dirs"}
    return json.dumps(settings, sort_keys=True)


def judge_rows(study: Study, judging: Judging, rows: Sequence[str], seed: int) -> None:
    """One after another, so that the judges are compiled once a seed."""
    for row in rows:
        folder = run_folder(study, row, seed)
        if not _is_judged(folder / RESULT_FILE, judging):
            report = evaluate(
                Renderer.from_pretrained(folder / "weights"),
                judging.judges,
                study.data,
                protocol=PROTOCOL,
                cache=study.workdir / JUDGED,
                config=json.loads((folder / "weights" / CONFIG_FILE).read_text()),
            )
            write_json(folder / RESULT_FILE, report)
    jax.clear_caches()


def _is_judged(file: Path, judging: Judging) -> bool:
    """Whether figures are there, as these judges and today's definitions have them of this data."""
    if not file.exists():
        return False
    result = json.loads(file.read_text())
    found = result.get("sha256", {})  # of an older version there is none
    by = {what: sha256 for what, sha256 in found.items() if what == "data" or is_of_judge(what)}
    how = (by, result.get("version"), result.get("protocol_sha256"))
    return how == (judging.sha256, VERSION, PROTOCOL.sha256)


def collect(study: Study, judging: Judging) -> dict[str, Any]:
    """{row: {seed: {column: figure}}} of all that the study has trained and these judges judged,
    whatever rows and seeds were asked for last; what they make of the truth; and what there is to
    say against them.

    ACC_e is in percent, as in the paper.
    """
    figures: dict[str, dict[int, dict[str, float]]] = {}
    known: dict[str, dict[str, float]] = {}
    objections: dict[str, None] = {}  # each once, in order
    for row in PAPER:
        for seed in _seeds_of(study, row):
            folder = run_folder(study, row, seed)
            if not _is_judged(folder / RESULT_FILE, judging):
                continue
            if not _is_of(configure(study, row, seed), folder):
                continue
            result = json.loads((folder / RESULT_FILE).read_text())
            figures.setdefault(row, {})[seed] = _columns(result["rows"]["generated"])
            known = {
                name: _columns(figures)
                for name, figures in result["rows"].items()
                if name != "generated"
            }
            objections |= dict.fromkeys(result["objections"])
    return {
        "steps": study.steps,
        "size": study.size,
        "protocol": PROTOCOL.as_dict(),
        "figures": figures,
        "known": known,
        "objections": list(objections),
    }


def _seeds_of(study: Study, row: str) -> list[int]:
    """Of the row's runs, finished or not."""
    start = run_folder(study, row, 0).name.removesuffix("0")
    ends = [path.name.removeprefix(start) for path in (study.workdir / "runs").glob(f"{start}*")]
    return sorted(int(seed) for seed in ends if seed.isdecimal())


def _columns(figures: dict[str, float]) -> dict[str, float]:
    found = {column: figures[name] for column, name in FIGURES.items() if name in figures}
    return found | {"ACC_e": 100 * found["ACC_e"]} if "ACC_e" in found else found


def write_tables(workdir: Path, study: dict[str, Any]) -> None:
    """Writes ablation.json and ablation.md."""
    verdicts = judge_claims(study["figures"], study["known"].get("still portrait", {}))
    claims = [claim._asdict() | verdict._asdict() for claim, verdict in verdicts.items()]
    study = study | {"claims": claims}
    text = markdown_page("The synthetic world's ablations", ablation_sections(study))
    write_json(workdir / "ablation.json", study)
    write_whole(workdir / "ablation.md", text.encode())


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reta_jax.ablate", description="Tables 4, 9 and 10 with equal budgets."
    )
    parser.add_argument("--world", choices=["synthetic"], default="synthetic")
    parser.add_argument("--workdir", type=Path, default=Path("ablation"))
    parser.add_argument("--data", type=Path, help="the world's clips; made there (WORKDIR/data)")
    parser.add_argument("--rows", default=",".join(PAPER), help=f"of {', '.join(PAPER)}")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row")
    parser.add_argument("--size", type=int, choices=[32, 64], default=64)
    parser.add_argument("--steps", type=int, default=ablations.get_config().train.steps)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    rows = arguments.rows.split(",")
    with sentences_for_errors():
        check_device()
        unknown = [row for row in rows if row not in PAPER]
        if unknown:
            raise InputError(f"no row {', '.join(unknown)}: known are {', '.join(PAPER)}")
        if min(arguments.seeds, arguments.steps) < 1:
            raise InputError("--seeds and --steps have to be 1 or more")
        workdir = arguments.workdir
        data = arguments.data or workdir / "data"
        study = Study(workdir, data, arguments.size, arguments.steps)
        finished = ablate(study, rows, range(arguments.seeds))
    if not finished:
        print("stopped and saved; the same command goes on", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    print((workdir / "ablation.md").read_text())


if __name__ == "__main__":
    set_up_xla()
    main()
