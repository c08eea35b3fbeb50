"""Trains every row of Tables 4, 9 and 10 with equal budgets: python -m reta_jax.ablate

Each row is trained with the same steps, batches and seeds, from the same E_I, G and E_A, with all
else drawn anew, and judged on people that none was trained on. The tables stand beside the paper's,
whose numbers are of other data and of another judge: what can be compared is the direction, and
each claim gets a verdict. An interrupted study goes on where it was; rows and seeds can be added.
At 64 px a run takes eight minutes of one core; at 32 px (--size) five, but faces show no emotion.

    python -m reta_jax.ablate --world synthetic --workdir ablation [--rows full,no_gpl] [--steps N]
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from configs import ablations
from configs.judges import synthetic as judges_of_the_world
from data_pipeline.errors import InputError
from data_pipeline.prepare import prepare_synthetic
from reta_jax import train
from reta_jax.commands import sentences_for_errors, set_up_xla
from reta_jax.evaluate import JUDGES, Judges, evaluate, load_judges
from reta_jax.files import write_whole
from reta_jax.metrics.cache import VERSION, clip_digests, digest
from reta_jax.metrics.protocol import Protocol, is_of_judge, judges_digests
from reta_jax.render import SYNTHETIC_WEIGHTS, Renderer
from reta_jax.weights import CONFIG_FILE, config_to_dict, load_weights, save_weights

SECONDS, CLIPS_PER_IDENTITY, IDENTITIES = 2.0, 6, 160
SYNC_BATCH, SYNC_STEPS = 16, 2_000
SYNC_EXPERT, BASE, JUDGED, RESULT_FILE = "sync_expert", "base", "judged", "result.json"
# Column of the tables: figure of reta_jax.evaluate. In this world the truth is known, so that
# "Mouth", the correlation of the lips' opening with the true one, stands beside Sync_c.
FIGURES = {
    "PSNR": "psnr",
    "SSIM": "ssim",
    "Sync_c": "sync_c",
    "ACC_e": "emotion_accuracy",
    "Mouth": "mouth_correlation",
}
PROTOCOL = Protocol(figures=("image", "sync", "emotion", "mouth"), sync_crops=("pipeline",))


class PaperRow(NamedTuple):
    """A line of the paper's tables, in the order of FIGURES; None where it gives no figure."""

    title: str
    psnr: float
    ssim: float
    sync: float | None
    emotion: float  # percent


PAPER = {
    "full": PaperRow("full model", 22.19, 0.77, 5.84, 62.35),
    "no_gpl": PaperRow("A.1 w/o GPL", 21.21, 0.68, 1.85, 61.72),
    "no_erl": PaperRow("A.2 w/o ERL", 21.37, 0.70, 5.65, 41.23),
    "no_3dmm": PaperRow("A.3 w/o 3DMM", 21.05, 0.66, 3.23, 57.41),
    # A.3 as appendix H words it, with "a simple decoder"; the row above changes one thing only.
    "no_3dmm_framewise": PaperRow("A.3 w/o 3DMM, frame by frame", 21.05, 0.66, 3.23, 57.41),
    "no_hi": PaperRow("B.1 w/o HI", 21.47, 0.71, 4.91, 52.64),
    "no_style": PaperRow("B.2 w/o f_STY", 21.63, 0.70, 5.75, 60.15),
    "no_eds": PaperRow("C.1 w/o EDS", 21.85, 0.73, 5.82, 45.79),
    "no_tvm": PaperRow("C.2 w/o TVM", 21.93, 0.75, 5.77, 62.10),
    "no_sync": PaperRow("w/o L_syn", 22.10, 0.77, 3.12, 58.35),
    "no_emotion_visual": PaperRow("w/o L_emo^{v-v}", 22.13, 0.78, 5.43, 51.42),
    "no_emotion_audio": PaperRow("w/o L_emo^{v-a}", 22.01, 0.76, 5.63, 55.76),
    "weights_1_1_1": PaperRow("lambda 1, 1, 1", 21.89, 0.70, None, 60.07),
    "weights_2_2_2": PaperRow("lambda 2, 2, 2", 22.10, 0.73, None, 60.72),
    "weights_1_2_1": PaperRow("lambda 1, 2, 1", 22.15, 0.76, None, 61.21),
}


class Claim(NamedTuple):
    """What the paper says of a row: a figure falls, or it stays when another falls."""

    row: str
    figure: str
    direction: Literal["falls", "stays"]


CLAIMS = (  # each of Sync_c is one of Mouth, too
    Claim("no_gpl", "Sync_c", "falls"),
    Claim("no_gpl", "Mouth", "falls"),
    Claim("no_gpl", "ACC_e", "stays"),
    Claim("no_erl", "ACC_e", "falls"),
    Claim("no_erl", "Sync_c", "stays"),
    Claim("no_erl", "Mouth", "stays"),
    Claim("no_3dmm", "Sync_c", "falls"),
    Claim("no_3dmm", "Mouth", "falls"),
    Claim("no_3dmm", "ACC_e", "falls"),
    Claim("no_3dmm_framewise", "Sync_c", "falls"),
    Claim("no_3dmm_framewise", "Mouth", "falls"),
    Claim("no_3dmm_framewise", "ACC_e", "falls"),
    Claim("no_hi", "Sync_c", "falls"),
    Claim("no_hi", "Mouth", "falls"),
    Claim("no_hi", "ACC_e", "falls"),
    Claim("no_style", "PSNR", "falls"),
    Claim("no_eds", "ACC_e", "falls"),
    Claim("no_tvm", "PSNR", "falls"),
    Claim("no_tvm", "SSIM", "falls"),
    Claim("no_sync", "Sync_c", "falls"),
    Claim("no_sync", "Mouth", "falls"),
    Claim("no_emotion_visual", "ACC_e", "falls"),
    Claim("no_emotion_audio", "ACC_e", "falls"),
    *(
        Claim(row, figure, "falls")
        for row in ("weights_1_1_1", "weights_2_2_2", "weights_1_2_1")
        for figure in ("PSNR", "SSIM", "ACC_e")
    ),
)
STAYS = 0.25  # share of the full model's figure that may be lost by a figure that "stays"


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
    train_sync_expert(study)
    if not prepare_start(study):
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


def train_sync_expert(study: Study) -> None:
    """The teacher of L_syn, trained on the study's own training people if it is not there yet."""
    folder = study.workdir / SYNC_EXPERT
    if not (folder / CONFIG_FILE).exists():
        multiplier = ablations.get_config().experts.sync.fields.channel_multiplier
        command = [
            *(sys.executable, "-m", "reta_jax.train_expert"),
            f"--config={judges_of_the_world.__file__}:sync_expert",
            f"--config.dirs=('{study.data}',)",
            f"--config.fields.channel_multiplier={multiplier}",
            f"--config.batch_size={SYNC_BATCH}",
            f"--config.steps={SYNC_STEPS}",
            f"--out={folder}",
        ]
        if subprocess.run(command).returncode:
            raise InputError("the sync expert could not be trained: see above")


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
      InputError: it is done with another budget or another config, and would not compare.
    """
    config, folder = configure(study, row, seed), run_folder(study, row, seed)
    if not (folder / "weights" / CONFIG_FILE).exists():
        (folder / RESULT_FILE).unlink(missing_ok=True)  # of weights that somebody took away
        is_finished = train.run(config, folder)
        jax.clear_caches()  # dozens of models' programs would fill the memory
        return is_finished
    if not _is_of(config, folder):
        raise InputError(
            f"{folder} is of other settings (steps, size or config): give another --workdir"
        )
    return True


def _is_of(config: ConfigDict, folder: Path) -> bool:
    """Whether a finished run is one of this config."""
    values = json.loads((folder / "weights" / CONFIG_FILE).read_text())
    return settings_of(values) == settings_of(config_to_dict(config))


def settings_of(values: dict[str, Any]) -> str:
    """What a run is a run of: its config without its folders."""
    settings = {name: values[name] for name in ("model", "loss", "tvm")}
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
            write_whole(folder / RESULT_FILE, f"{json.dumps(report, indent=1)}\n".encode())
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


class Verdict(NamedTuple):
    """Of a claim: the difference to the full model, by seed, and what follows from it."""

    difference: float  # mean over the seeds
    spread: float  # half of its 95 % interval (Student's t over the seeds' differences)
    word: Literal["reproduced", "contradicted", "undecided"]


def judge_claim(claim: Claim, row: Sequence[float], full: Sequence[float], still: float) -> Verdict:
    """Verdict from the figures of the same seeds, at least two.

    "falls": the interval of the difference lies below zero; contradicted if above. "stays": what is
    lost is less than a quarter of the full model's figure; contradicted if it is more, and nothing
    can be said if the full model's own is no better than the still portrait's.
    """
    mean, spread = _mean_and_spread(np.subtract(row, full))
    low, high = mean - spread, mean + spread
    if claim.direction == "stays":
        margin = -STAYS * float(np.mean(full))
        gain, gain_spread = _mean_and_spread(np.subtract(full, still))
        is_there = gain > gain_spread
        is_so, is_not = is_there and low > margin, is_there and high < margin
    else:
        is_so, is_not = high < 0, low > 0
    word = "reproduced" if is_so else "contradicted" if is_not else "undecided"
    return Verdict(mean, spread, word)


def _mean_and_spread(values: np.ndarray) -> tuple[float, float]:
    """With half of the 95 % interval, Student's t."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * error)


def judge_claims(
    figures: dict[str, dict[int, dict[str, float]]], still: dict[str, float]
) -> dict[Claim, Verdict]:
    """Verdicts on the claims whose row and the full model share at least two seeds.

    Only seeds count whose runs have the figure: without a SyncNet none has Sync_c.
    """
    verdicts = {}
    for claim in CLAIMS:
        row, full = (
            {
                seed: run[claim.figure]
                for seed, run in figures.get(name, {}).items()
                if claim.figure in run
            }
            for name in (claim.row, "full")
        )
        seeds = sorted(set(row) & set(full))
        if len(seeds) >= 2 and claim.figure in still:
            values = [[runs[seed] for seed in seeds] for runs in (row, full)]
            verdicts[claim] = judge_claim(claim, *values, still[claim.figure])
    return verdicts


def write_tables(workdir: Path, study: dict[str, Any]) -> None:
    """Writes ablation.json and ablation.md."""
    still = study["known"].get("still portrait", {})
    verdicts = judge_claims(study["figures"], still)
    claims = [claim._asdict() | verdict._asdict() for claim, verdict in verdicts.items()]
    values = json.dumps(study | {"claims": claims}, indent=1)
    write_whole(workdir / "ablation.json", f"{values}\n".encode())
    write_whole(workdir / "ablation.md", markdown(study, verdicts).encode())


def markdown(study: dict[str, Any], verdicts: dict[Claim, Verdict]) -> str:
    """The tables beside the paper's, and the verdicts."""
    names = list(FIGURES)
    lines = [
        f"# Ablations: {study['steps']} steps each at {study['size']} px, synthetic world",
        "",
        "Mean ± standard deviation over the seeds; (the paper's figure). Mouth is the correlation "
        "of the lips' opening with the truth's; data and judges differ from the paper's: compare "
        "directions.",
        "",
        *(f"**{objection}**\n" for objection in study["objections"]),
        f"| row | seeds | {' | '.join(names)} |",
        "|---" * (len(names) + 2) + "|",
    ]
    for row, runs in study["figures"].items():
        paper = PAPER[row]
        cells = [
            _mean(runs, name) + ("" if published is None else f" ({published})")
            for name, published in itertools.zip_longest(names, paper[1:])
        ]
        lines.append(f"| {paper.title} | {len(runs)} | {' | '.join(cells)} |")
    for title, figures in study["known"].items():
        cells = [_figure(figures[name], name) if name in figures else "" for name in names]
        lines.append(f"| *{title}* | | {' | '.join(cells)} |")
    lines += [
        "",
        f'"Stays" means that the figure falls by less than {STAYS:.0%}. Each verdict is at 95 %, '
        "for itself: of so many, one or another may be chance.",
        "",
        "| the paper's claim | difference to the full model | verdict |",
        "|---|---|---|",
    ]
    for claim, verdict in verdicts.items():
        lines.append(
            f"| {PAPER[claim.row].title}: {claim.figure} {claim.direction} | "
            f"{verdict.difference:+.3f} ± {verdict.spread:.3f} | {verdict.word} |"
        )
    return "\n".join(lines) + "\n"


def _mean(runs: dict[int, dict[str, float]], name: str) -> str:
    values = [figures[name] for figures in runs.values() if name in figures]
    if not values:
        return ""
    spread = f" ± {_figure(np.std(values, ddof=1), name)}" if len(values) > 1 else ""
    return f"{_figure(np.mean(values), name)}{spread}"


def _figure(value: float, name: str) -> str:
    """With three decimals what lies in [0, 1]."""
    return f"{value:.3f}" if name in ("SSIM", "Mouth") else f"{value:.2f}"


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
        sys.exit(train.EXIT_INTERRUPTED)
    print((workdir / "ablation.md").read_text())


if __name__ == "__main__":
    set_up_xla()
    main()
