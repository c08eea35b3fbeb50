"""The paper's figures of any model: python -m reta_jax.figures --checkpoint DIR --data DIR

Writes a folder with index.html, README.md and PNGs: what every level of the generator makes
(Fig. 2), generated frames beside the truth and other systems under their voice (Fig. 3), the
motion mask of Algorithm 1 (Fig. 5), the mesh beside the frame (Fig. 7), flow and mask of every
level; and of files the curves of a training's metrics.jsonl, the bars and tables of an evaluation's
report.json, and those of reta_jax.ablate and reta_jax.robustness.
"""

import argparse
import functools
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.progress import track

from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.loader import EvaluationClip
from data_pipeline.video import read_video
from reta_jax import plots
from reta_jax.commands import sentences_for_errors, set_up_xla
from reta_jax.curves import (
    ablation_sections,
    evaluation_sections,
    robustness_sections,
    training_sections,
)
from reta_jax.files import make_folder
from reta_jax.images import to_float
from reta_jax.inside import LevelFacts, level_facts, principal_components
from reta_jax.metrics.clips import has_known_mesh
from reta_jax.metrics.mesh import lip_mesh, lip_vertex_error
from reta_jax.models.morphable import MorphableModel, mesh
from reta_jax.models.stylegan import resolutions
from reta_jax.ops.variance_mask import Stages
from reta_jax.pictures import flow_key, flow_picture, mask_picture, mesh_picture
from reta_jax.pretrained.reta import Pretrained, load_reta
from reta_jax.report import Section, Table, decimals, write_report
from reta_jax.shown import (
    Shown,
    liveliest,
    load_clips,
    pick_moments,
    pick_shown,
    render_inside,
    true_opening,
)
from reta_jax.step import motion_mask
from reta_jax.weights import SYNTHETIC_WEIGHTS

SHOWN = 2  # clips that are looked at closely
MOMENTS = 8  # of each, side by side
COMPONENTS = 3  # red, green, blue
SECOND = 25  # frames
PIXELS = 200_000  # at most that a PCA is fitted to


def level_names(model: Pretrained) -> list[str]:
    """Size and control code of each level: "32² f_E"."""
    generator = model.reta.generator
    sizes = resolutions(generator.size)
    if model.config.model.injection == "concat":
        return [f"{n}²" for n in sizes]
    return [f"{n}² {'f_M' if generator.is_early(n) else 'f_E'}" for n in sizes]


# ------------------------------------------------------------------------------------------------
# Figures of a model
# ------------------------------------------------------------------------------------------------


def generation_section(out: Path, model: Pretrained, shown: Sequence[Shown]) -> Section:
    """Fig. 2, and what the components of each level go with."""
    names = level_names(model)
    few = [(s, i) for s in shown[:SHOWN] for i in _few(s)]
    inside = [s.inside[i] for s, i in few]
    columns = [colour_components([x.features[n] for x in inside]) for n in range(len(names))]
    rows = [[*(column[r] for column in columns), x.frames] for r, x in enumerate(inside)]
    layers = plots.save(
        out,
        "fig2_levels.png",
        plots.picture_grid(rows, [*names, "frame"], [_moment_name(s, i) for s, i in few]),
        "Features of each level on their three leading principal components as red, green and "
        "blue; one basis a level for all pictures.",
    )
    facts = [frame_facts(shown, n) for n in range(len(names))]
    bars = plots.save(
        out,
        "fig2_components.png",
        plots.bars_by_level(
            names,
            {
                "share of variance": np.array([f.shares for f in facts]),
                "|correlation| with the mouth": np.array([f.mouth for f in facts]),
                "explained by emotion": np.array([f.emotion for f in facts]),
            },
            [f"PC{i + 1}" for i in range(COMPONENTS)],
        ),
        "Principal components of each level's frames, about each person's mean.",
    )
    pictures = [layers, bars]
    gap = true_opening(shown[0].clip)
    if np.isfinite(gap).all():
        last = len(gap)  # the first clip's frames come first
        curves = {
            f"{name}\nPC{1 + i}": _like(f.scores[:last, i], gap)
            for name, f in zip(names, facts, strict=True)
            for i in [int(np.nan_to_num(f.mouth).argmax())]
        }
        pictures.append(
            plots.save(
                out,
                "fig2_mouth.png",
                plots.over_time(curves, _unit(gap), "opening of the true mouth"),
                "The component of each level that goes with the mouth best, in "
                f"{shown[0].clip.clip}.",
            )
        )
    head = ["level", "PC1", "PC1-3", "mouth, PC1", "mouth, best", "emotion, PC1", "emotion, best"]
    rows = [
        [name, *map(decimals, (f.shares[0], f.shares.sum(), f.mouth[0])), _best(f.mouth)]
        + [decimals(f.emotion[0]), _best(f.emotion)]
        for name, f in zip(names, facts, strict=True)
    ]
    clips, frames = len(shown), sum(len(s.frames) for s in shown)
    text = (
        "The output of each level of the generator (warped texture blended with control features) "
        f"for {clips} clips, {frames} frames. The pictures are a PCA of pixels, as in the paper."
        "\n\nThe table is a PCA of frames: each frame's map, averaged down to 16² if it is larger, "
        "less the mean over all frames of that person, so that what varies is what the voice "
        "moves. PC1 and PC1-3: share of that variance. Mouth: absolute correlation of a component "
        "with the opening of the true mouth within clips. Emotion: share of the variance of a "
        "component's clip means, within a person, that the clip's emotion explains (adjusted R²: 0 "
        "means no more than chance); a dash where there are too few clips to tell."
    )
    return Section("Level by level (Fig. 2)", text, pictures, Table(head, rows))


def colour_components(maps: Sequence[Float[np.ndarray, "h w c"]]) -> list[np.ndarray]:
    """Maps of one level on their leading components as RGB, in common colours."""
    pixels = np.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])
    found = principal_components(pixels[:: -(-len(pixels) // PIXELS)], COMPONENTS)
    scores = (pixels - found.mean) @ found.directions.T
    low, high = np.percentile(scores, [1, 99], axis=0)
    colours = np.clip((scores - low) / np.where(high > low, high - low, 1), 0, 1)
    colours = np.round(255 * colours).astype(np.uint8)
    ends = np.cumsum([x.shape[0] * x.shape[1] for x in maps])[:-1]
    return [
        part.reshape(*x.shape[:2], 3) for part, x in zip(np.split(colours, ends), maps, strict=True)
    ]


def frame_facts(shown: Sequence[Shown], level: int) -> LevelFacts:
    """`level_facts` over the frames of all clips."""
    lengths = [len(s.frames) for s in shown]
    of_frames = lambda values: np.repeat(np.array(values), lengths)
    return level_facts(
        np.concatenate([s.pooled[level] for s in shown]),
        of_frames(np.arange(len(shown))),
        of_frames([s.clip.identity for s in shown]),
        of_frames([s.clip.emotion for s in shown]),
        np.concatenate([true_opening(s.clip) for s in shown]),
        COMPONENTS,
    )


def comparison_section(out: Path, shown: Sequence[Shown], videos: dict[str, Path]) -> Section:
    """Fig. 3: truth, still portrait, ours and others, tied to the voice."""
    pictures = []
    for number, s in enumerate(shown[:SHOWN]):
        others = {name: find_video(folder, s.clip.clip) for name, folder in videos.items()}
        systems = {
            "truth": s.clip.frames,
            "still portrait": np.repeat(s.clip.portrait[None], len(s.frames), 0),
            "ours": s.frames,
        } | {name: read_video(path).frames for name, path in others.items() if path}
        pictures.append(
            plots.save(
                out,
                f"fig3_{number + 1}.png",
                plots.with_voice(
                    [[frame_at(frames, m) for m in s.moments] for frames in systems.values()],
                    list(systems),
                    s.moments,
                    s.clip.audio,
                    s.sounds,
                ),
                f"{s.clip.clip}{_feeling(s.clip)}: mouths wide and shut in turn, in the truth.",
            )
        )
    text = (
        "Every column is one moment; the line leads to the 40 ms of sound that belong to it. "
        "All systems hear the same voice from its first sample on, and frame k of each is shown "
        "beside frame k of the truth."
    )
    return Section("Side by side (Fig. 3)", text, pictures)


def find_video(folder: Path, clip: str) -> Path | None:
    """DIR/<clip>.mp4, None where the system did not render this clip.

    Raises InputError if there is no such folder, or no video in it.
    """
    if not any(folder.glob("*.mp4")):
        raise InputError(f"no mp4 in {folder}: give a folder of videos named as the clips")
    path = folder / f"{clip}.mp4"
    return path if path.is_file() else None


def check_videos(videos: dict[str, Path], clips: Sequence[str]) -> None:
    """Raises InputError where a system has none of the clips that are shown."""
    for name, folder in videos.items():
        if not any(find_video(folder, clip) for clip in clips):
            raise InputError(f"{folder} ({name}) has none of the clips shown: {clips[0]}.mp4, ...")


def frame_at(frames: UInt8[np.ndarray, "t h w 3"], moment: int) -> np.ndarray | None:
    """Frame number `moment`, None after the end of the video."""
    return frames[moment] if moment < len(frames) else None


def mask_section(out: Path, model: Pretrained, shown: Sequence[Shown]) -> Section:
    """Fig. 5: Algorithm 1, stage by stage."""
    rows, titles, shares, stages_of = [], [], [], mask_stages(model)
    columns = ["frame", "variance", "thresholded", "opened", "blurred", "mask", "over the frame"]
    for s in shown[:SHOWN]:
        for length in dict.fromkeys((model.config.train.frames, SECOND)):
            window = liveliest(s.clip, length)
            frames = s.clip.frames[window]
            stages = stages_of(frames)
            steps = stages.coarse, stages.opened, stages.smooth, stages.mask[..., 0]
            grey = [mask_picture(step[..., None]) for step in steps]
            middle = frames[len(frames) // 2]
            over = _overlay(middle, stages.mask[..., 0])
            rows.append([middle, _heat(stages.variance), *grey, over])
            titles.append(f"{s.clip.clip}\n{len(frames)} frames")
            shares.append(float(stages.mask.mean()))
    tvm = model.config.tvm
    picture = plots.save(
        out,
        "fig5_mask.png",
        plots.picture_grid(rows, columns, titles),
        "Algorithm 1 over the liveliest stretch of real frames: as many as a training sample has, "
        "and one second.",
    )
    text = (
        "Where the encoder's features of the real clip vary over time, which is where the motion "
        f"term of the loss looks. Constants: tau_init {tvm.tau_init}, opening {tvm.kernel}×"
        f"{tvm.kernel}, sigma {tvm.sigma}, tau_final {tvm.tau_final}. The masks cover "
        + ", ".join(f"{100 * share:.1f} %" for share in shares)
        + " of the frame."
    )
    return Section("Temporal variance masking (Fig. 5)", text, [picture])


def mask_stages(model: Pretrained) -> Callable[[UInt8[np.ndarray, "t h w 3"]], Stages]:
    """Algorithm 1 on real frames, as in training; each stage without the axis of clips.

    It is compiled once for clips of one length.
    """
    compiled = jax.jit(functools.partial(motion_mask, model.config, model.reta))

    def stages_of(frames: UInt8[np.ndarray, "t h w 3"]) -> Stages:
        stages = compiled(model.params, to_float(jnp.asarray(frames))[None])
        return jax.tree.map(lambda x: np.asarray(x)[0], stages)

    return stages_of


def mesh_section(out: Path, model: Pretrained, shown: Sequence[Shown]) -> Section:
    """Fig. 7: the mesh beside the frame that it led to, and the truth of the synthetic world."""
    if shown[0].p_exp is None:
        return Section("Mesh and frame (Fig. 7)", "This model has no 3DMM.")
    morphable = model.morphable
    triangles, face = np.asarray(morphable.triangles), face_vertices(morphable)
    shape_of = lambda p: np.asarray(mesh(morphable, jnp.asarray(p)))
    draw = lambda p: mesh_picture(shape_of(p), triangles, 256, framed_by=face)
    rows, titles, distances = [], [], []
    for s in shown[:SHOWN]:
        known = knows_coefficients(morphable, s.clip)
        if known:
            lips, truth = (lip_mesh(morphable, p) for p in (s.p_exp, s.clip.coefficients))
            distances.append(lip_vertex_error(lips, truth)["lip_vertex_distance_mm"])
        for i in _few(s):
            m = s.moments[i]
            truth = draw(s.clip.coefficients[m]) if known else None
            rows.append([s.clip.portrait, s.frames[m], draw(s.p_exp[m]), s.clip.frames[m], truth])
            titles.append(_moment_name(s, i))
    columns = ["portrait", "generated", "predicted mesh", "truth", "true mesh"]
    if not distances:
        rows, columns = [row[:-1] for row in rows], columns[:-1]
    picture = plots.save(
        out,
        "fig7_mesh.png",
        plots.picture_grid(rows, columns, titles, tile=1.7),
        "The mesh of p_exp is what the motion code is read off; it speaks of the face, the pose is "
        "the portrait's.",
    )
    text = "The mesh is never compared with anything in training."
    if distances:
        text += (
            " Of the synthetic world the truth is known: the farthest lip vertex lies "
            + " and ".join(f"{d:.1f} mm" for d in distances)
            + " from it in these clips, on average over the frames (without the pose; mean shape)."
        )
    return Section("Mesh and frame (Fig. 7)", text, [picture])


def face_vertices(morphable: MorphableModel) -> Float[np.ndarray, "v 3"]:
    """The vertices of the mean shape that expressions move: no neck, no back of the head."""
    reach = np.linalg.norm(np.asarray(morphable.expression), axis=1).max(1)
    return np.asarray(morphable.mean)[reach > 0.1 * reach.max()]


def knows_coefficients(morphable: MorphableModel, clip: EvaluationClip) -> bool:
    """Whether the clip's truth is a mesh of this model."""
    return bool(clip.coefficients.any()) and has_known_mesh(morphable)


def flow_section(out: Path, model: Pretrained, shown: Sequence[Shown]) -> Section:
    """Flow and occlusion mask of every level."""
    names = level_names(model)
    close = shown[:SHOWN]
    moves = [
        [flow - mean for flow, mean in zip(x.flows, s.mean_flows, strict=True)]
        for s in close
        for x in s.inside
    ]
    inside = [x for s in close for x in s.inside]
    coarse_scale = max(_flow_scale(x.flows for x in inside), 1e-3)
    fine_scale = max(_flow_scale(moves), 1e-4)
    rows, titles = [], []
    places = [(n, i) for n, s in enumerate(close) for i in _few(s)[:2]]
    for n, i in places:
        x, move = close[n].inside[i], moves[sum(len(s.inside) for s in close[:n]) + i]
        rows += [
            [*(flow_picture(flow, coarse_scale) for flow in x.flows), x.frames],
            [*(flow_picture(flow, fine_scale) for flow in move), None],
            [*(mask_picture(mask) for mask in x.masks), None],
        ]
        titles += [f"{_moment_name(close[n], i)}\nflow", "flow, less the\nclip's mean", "mask"]
    rows[1][-1] = flow_key(160)
    grid = plots.picture_grid(rows, [*names, "frame"], titles)
    text = (
        "Flow is where a level samples the portrait's texture, as an offset from the pixel: red to "
        "the right, yellow down, cyan left, violet up (the key is in the second row). The picture "
        f"is 2 wide; full colour is an offset of {coarse_scale:.3f}, in the second rows of "
        f"{fine_scale:.4f}. Masks: white keeps the warped texture, black paints."
    )
    facts = [
        [
            name,
            f"{np.mean([x.masks[level].mean() for x in inside]):.2f}",
            f"{np.mean([np.linalg.norm(move[level], axis=-1) for move in moves]):.4f}",
        ]
        for level, name in enumerate(names)
    ]
    return Section(
        "Flow and masks",
        text,
        [plots.save(out, "flow_and_masks.png", grid, "Flow and occlusion mask of every level.")],
        Table(["level", "mean mask", "mean |flow - its mean|"], facts),
    )


# ------------------------------------------------------------------------------------------------
# Small things
# ------------------------------------------------------------------------------------------------


def _few(s: Shown) -> list[int]:
    """Places of three moments: the widest mouth, the narrowest, and the one between."""
    by_width = np.argsort(true_opening(s.clip)[s.moments], kind="stable").tolist()
    return list(dict.fromkeys([by_width[-1], by_width[0], by_width[len(by_width) // 2]]))


def _moment_name(s: Shown, i: int) -> str:
    moment = s.moments[i]
    sound = f"  {s.sounds[moment]}" if s.sounds else ""
    return f"{s.clip.clip}\n{moment / SECOND:.2f} s{sound}"


def _feeling(clip: EvaluationClip) -> str:
    return f" ({EMOTIONS[clip.emotion]})" if clip.emotion >= 0 else ""


def _heat(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """[0, 1] from black over red and yellow to white; the square root shows what is faint."""
    steps = 3 * np.sqrt(np.clip(values, 0, 1))[..., None] - np.arange(3)
    return np.round(255 * np.clip(steps, 0, 1)).astype(np.uint8)


def _overlay(frame: UInt8[np.ndarray, "h w 3"], mask: Any) -> UInt8[np.ndarray, "h w 3"]:
    """The frame, red where the mask is."""
    red = 0.5 * frame + 0.5 * np.array([255, 0, 0])
    return np.where(np.asarray(mask)[..., None] > 0, red, frame).astype(np.uint8)


def _flow_scale(flows: Iterable[Sequence[Float[np.ndarray, "_ _ 2"]]]) -> float:
    """The 99th percentile of the flow's length over all pixels: what full colour stands for."""
    lengths = [np.linalg.norm(flow, axis=-1).ravel() for levels in flows for flow in levels]
    return float(np.percentile(np.concatenate(lengths), 99))


def _unit(values: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    return (values - values.mean()) / (values.std() or 1.0)


def _like(values: Float[np.ndarray, " t"], other: Float[np.ndarray, " t"]) -> np.ndarray:
    """Without unit, and with the sign that goes with `other`."""
    sign = 1 if np.dot(_unit(values), _unit(other)) >= 0 else -1
    return sign * _unit(values)


def _best(values: Float[np.ndarray, " k"]) -> str:
    if not np.isfinite(values).any():
        return "–"
    best = int(np.nanargmax(values))
    return f"{values[best]:.3f} (PC{best + 1})"


# ------------------------------------------------------------------------------------------------
# The command
# ------------------------------------------------------------------------------------------------


def model_sections(
    out: Path,
    checkpoint: Path,
    data: Path,
    split: str,
    limit: int,
    frames: int,
    videos: dict[str, Path],
) -> list[Section]:
    """All figures that need a model and clips."""
    model = load_reta(checkpoint)
    clips = load_clips(data, split, model.config.model.size, limit, frames)
    chosen = pick_shown([clip for clip, _ in clips], SHOWN)
    order = chosen + [i for i in range(len(clips)) if i not in chosen]
    check_videos(videos, [clips[i][0].clip for i in chosen])
    shown = []
    for i in track(order, "rendering", console=Console(stderr=True)):
        clip, sounds = clips[i]
        moments = pick_moments(true_opening(clip), MOMENTS) if i in chosen else []
        shown.append(render_inside(model, clip, sounds, moments))
    return [
        generation_section(out, model, shown),
        comparison_section(out, shown, videos),
        mask_section(out, model, shown),
        mesh_section(out, model, shown),
        flow_section(out, model, shown),
    ]


def make_figures(arguments: argparse.Namespace, made_by: str) -> list[Section]:
    """Writes the report; returns its sections.

    Raises InputError for wrong input; then there is no index.html.
    """
    of_files = {
        training_sections: arguments.metrics,
        evaluation_sections: arguments.evaluation,
        ablation_sections: arguments.ablation,
        robustness_sections: arguments.robustness,
    }
    if not (arguments.data or any(of_files.values())):
        raise InputError(
            "nothing to show: give --data, --metrics, --evaluation, --ablation or --robustness"
        )
    for name in ("limit", "frames"):
        if getattr(arguments, name) < 1:
            raise InputError(
                f"--{name} {getattr(arguments, name)} leaves nothing to show: give 1 or more"
            )
    videos = parse_videos(arguments.videos)
    if videos and not arguments.data:
        raise InputError("--videos needs --data, the clips that they were rendered from")
    folder = arguments.out
    make_folder(folder)
    sections = []
    for make_sections, path in of_files.items():
        if path:
            sections += make_sections(folder, path)
    if arguments.data:
        sections = model_sections(
            folder, arguments.checkpoint, arguments.data, arguments.split, arguments.limit,
            arguments.frames, videos,
        ) + sections  # fmt: skip
    write_report(folder, "Figures", made_by, sections)
    return sections


def parse_videos(values: Sequence[str]) -> dict[str, Path]:
    """NAME=DIR, as often as wanted."""
    videos = {}
    for value in values:
        name, _, folder = value.partition("=")
        if not name or not folder:
            raise InputError(f"--videos {value}: give NAME=DIR")
        videos[name] = Path(folder)
    return videos


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reta_jax.figures", description="The paper's figures of any model."
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=SYNTHETIC_WEIGHTS,
        help="weights or workdir; default: weights/synthetic/reta",
    )
    parser.add_argument("--data", type=Path, help="folder of prepared records to render")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=16, help="look at the first N clips only")
    parser.add_argument("--frames", type=int, default=50, help="and at their first N frames")
    parser.add_argument("--metrics", type=Path, help="metrics.jsonl of a training")
    parser.add_argument(
        "--evaluation", type=Path, help="report.json of an evaluation, or its folder"
    )
    parser.add_argument("--ablation", type=Path, help="ablation.json of reta_jax.ablate, likewise")
    parser.add_argument(
        "--robustness", type=Path, help="robustness.json of reta_jax.robustness, likewise"
    )
    parser.add_argument(
        "--videos",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=DIR",
        help="another system's videos, DIR/<clip>.mp4",
    )
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    given = sys.argv[1:] if argv is None else argv
    with sentences_for_errors():
        sections = make_figures(arguments, shlex.join(["python", "-m", "reta_jax.figures", *given]))
    for section in sections:
        for picture in section.pictures:
            print(arguments.out / picture.file)
    print(arguments.out / "index.html")


if __name__ == "__main__":
    set_up_xla()
    main()
