"""Figures of one prepared clip: what the judges see in each of its rows, against the truth."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipeline.emotions import EMOTIONS
from data_pipeline.face import MOUTH
from data_pipeline.face_basis import load_face_basis
from data_pipeline.loader import EvaluationClip
from reta_jax.experts.landmark_net import from_lower_face
from reta_jax.metrics.image import compare_pixels
from reta_jax.metrics.judges import MEDIAPIPE, Judge, Judges
from reta_jax.metrics.landmarks import PIXELS_SIDE, compare_faces, mean_eye_distance
from reta_jax.metrics.mesh import lip_mesh, lip_vertex_error
from reta_jax.metrics.mouth import compare_lips
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.rows import GENERATED, PORTRAIT, TRUTH, Row, known_videos, rows
from reta_jax.metrics.statistics import NAMED, Figures
from reta_jax.metrics.sync import is_long_enough
from reta_jax.models.morphable import MorphableModel, builtin_morphable

FID_ROWS = ("generated", "still portrait", "truth, blurred", "truth")  # the others show as much


class Video(NamedTuple):
    """A video and what the judges see in its frames; None where there is no such judge."""

    frames: UInt8[np.ndarray, "t h w 3"]
    mouth: Float[np.ndarray, "t 20 2"] | None = None
    face: Float[np.ndarray, "t 68 2"] | None = None
    person: Float[np.ndarray, "t d"] | None = None
    lips: Float[np.ndarray, "t l 3"] | None = None  # of the mesh, in mm

    def at(self, frames: Int[np.ndarray, " t"]) -> "Video":
        return Video(*(None if x is None else x[frames] for x in self))


class Known(NamedTuple):
    """A clip's figures and features for the FID, by row, and who the truth's frames show."""

    rows: dict[str, Figures]
    features: dict[str, Float[np.ndarray, "f d"]]
    person: Float[np.ndarray, "t d"]  # d = 0 without a judge


def look(
    judges: Judges, protocol: Protocol, shown: dict[str, UInt8[np.ndarray, "t h w 3"]], box
) -> dict[str, Video]:
    """What the judges see in a clip's videos: one call each for all of them."""
    ends = np.cumsum([len(frames) for frames in shown.values()])[:-1]
    together = np.concatenate(list(shown.values()))
    seen: list[list[np.ndarray] | None] = []
    for group, judge, more in (
        ("mouth", judges.mouth, (box,)),
        ("face", judges.face, ()),
        ("identity", judges.identity, ()),
    ):
        wanted = judge is not None and group in protocol.figures
        seen.append(np.split(judge.look(together, *more), ends) if wanted else None)
    return {
        name: Video(frames, *(None if found is None else found[i] for found in seen))
        for i, (name, frames) in enumerate(shown.items())
    }


def judge_known(
    judges: Judges,
    protocol: Protocol,
    clip: EvaluationClip,
    other_voice: Float[np.ndarray, " n"] | None = None,
) -> Known:
    """Every row of a clip but the generated one: they are the same for every model.

    Args:
      other_voice: of another clip, for the row that has the wrong sound.
    """
    shown = {name: make() for name, make in known_videos(clip.frames, clip.portrait).items()}
    seen = look(judges, protocol, shown, clip.sync_box)
    if clip.coefficients.any():
        # Of another clip's portrait it is known that it is neutral, of the clip's own all.
        still = clip.coefficients[:1] * _starts_from_itself(clip)
        for name, coefficients in ((TRUTH, clip.coefficients), (PORTRAIT, still)):
            seen[name] = seen[name]._replace(lips=lip_mesh(_own_face(), coefficients))
    figures, features = {}, {}
    for name, row in rows(len(clip.frames), clip.audio, other_voice).items():
        if row.video != GENERATED:
            video = seen[row.video].at(row.at)
            figures[name] = measure(judges, protocol, clip, video, row, seen[TRUTH])
            features |= fid_features(judges, protocol, name, video.frames)
    person = seen[TRUTH].person
    return Known(figures, features, np.zeros((len(clip.frames), 0)) if person is None else person)


def judge_generated(
    judges: Judges,
    protocol: Protocol,
    clip: EvaluationClip,
    generated: UInt8[np.ndarray, "t h w 3"],
    known: Known,
    p_exp: Float[np.ndarray, "t 64"] | None = None,
) -> Known:
    """The row "generated" of a clip, added to the known ones.

    Args:
      generated: as many frames as the clip has.
      p_exp: the coefficients that the model took from the voice, if it has the built-in 3DMM.
    """
    (video,) = look(judges, protocol, {GENERATED: generated}, clip.sync_box).values()
    truth = Video(clip.frames, person=known.person if known.person.size else None)
    if p_exp is not None and clip.coefficients.any():
        video = video._replace(lips=lip_mesh(_own_face(), p_exp))
        truth = truth._replace(lips=lip_mesh(_own_face(), clip.coefficients))
    row = rows(len(generated), clip.audio, None)["generated"]
    figures = measure(judges, protocol, clip, video, row, truth)
    return known._replace(
        rows={"generated": figures, **known.rows},
        features=fid_features(judges, protocol, "generated", generated) | known.features,
    )


@functools.cache
def _own_face() -> MorphableModel:
    """The 3DMM that the synthetic world's coefficients are of; its mesh has one resolution."""
    return builtin_morphable(8)


def measure(
    judges: Judges,
    protocol: Protocol,
    clip: EvaluationClip,
    video: Video,
    row: Row,
    truth: Video,
) -> Figures:
    """Figures of one row."""
    figures: Figures = {}
    if "image" in protocol.figures:
        figures |= compare_pixels(video.frames, truth.frames)
    if video.mouth is not None:
        figures |= compare_mouths(clip, video.mouth, video.face, row.audio)
    if video.face is not None:
        true_face = clip.landmarks if has_landmarks(clip) else None
        sees_lids = judges.face.network == MEDIAPIPE  # face_net overlooks most blinks at 64 px
        unit = _unit(clip, video.face)
        figures |= compare_faces(video.face, true_face, unit, PIXELS_SIDE, sees_lids)
    if video.person is not None and truth.person is not None:
        figures["identity_similarity"] = float((video.person * truth.person).sum(1).mean())
    if video.lips is not None and truth.lips is not None and "mesh" in protocol.figures:
        figures |= lip_vertex_error(video.lips, truth.lips)
    if judges.emotion and "emotion" in protocol.figures and clip.emotion >= 0:
        figures |= judge_emotion(judges.emotion, video.frames, clip.emotion)
    if judges.sync and "sync" in protocol.figures:
        figures |= judge_crops(judges.sync.look, protocol, video.frames, row.audio, clip.sync_box)
    return figures


def judge_emotion(judge: Judge, frames: UInt8[np.ndarray, "t h w 3"], emotion: int) -> Figures:
    """ACC_e of one video, and what was named."""
    named = judge.look(frames)
    return {"emotion_accuracy": float(named == emotion), NAMED: float(named)}


def fid_features(
    judges: Judges, protocol: Protocol, row: str, frames: UInt8[np.ndarray, "t h w 3"]
) -> dict[str, Float[np.ndarray, "f d"]]:
    """Of `fid_frames` frames, evenly spread, {row: features}; {} if it is not asked for.

    A still picture is looked at once.
    """
    if judges.inception is None or row not in FID_ROWS or "fid" not in protocol.figures:
        return {}
    look = judges.inception.look
    spread = np.linspace(0, len(frames) - 1, min(protocol.fid_frames, len(frames)))
    chosen = frames[spread.round().astype(int)]
    if (chosen == chosen[:1]).all():
        return {row: np.repeat(look(chosen[:1]), len(chosen), 0)}
    return {row: look(chosen)}


def compare_mouths(
    clip: EvaluationClip,
    mouth: Float[np.ndarray, "t 20 2"],
    face: Float[np.ndarray, "t 68 2"] | None,
    audio: Float[np.ndarray, " n"],
) -> Figures:
    """Lips against the true ones and against the voice, in distances of the true eyes.

    A clip without landmarks has no true lips.

    Args:
      mouth: in [0, 1] of the lower face.
    """
    truth = np.float64(clip.landmarks[:, MOUTH]) if has_landmarks(clip) else None
    lips = np.float64(from_lower_face(np.float32(mouth), clip.sync_box[None]))
    return compare_lips(lips, truth, _unit(clip, face), PIXELS_SIDE, audio)


def _unit(clip: EvaluationClip, face: Float[np.ndarray, "t 68 2"] | None) -> float:
    """The distance of the true outer eye corners; of a clip without landmarks, of the face's.

    NaN where a judge sees none.
    """
    points = clip.landmarks if has_landmarks(clip) else face
    return np.nan if points is None else mean_eye_distance(points)


def has_landmarks(clip: EvaluationClip) -> bool:
    """Whether a clip was prepared with landmarks; without, its records have zeros."""
    return bool(clip.landmarks.any())


NO_LANDMARKS = "have no landmarks in their records: mouths and faces are not held against the truth"
OWN_PORTRAIT = (
    "start from their own first frame: of their person there is no clip that is said to be neutral"
)
TOO_SHORT = "are too short to judge their synchrony: six frames with their sound are needed"


def remarks(judges: Judges, protocol: Protocol, clip: EvaluationClip) -> list[str]:
    """What could not be judged of a clip, in words that go on from "3 clips"."""
    found = []
    if protocol.source == "neutral" and _starts_from_itself(clip):
        is_neutral = emotion_name(clip.emotion) == "neutral"
        found += [OWN_PORTRAIT] * (not is_neutral)
    compared = {"mouth": judges.mouth, "face": judges.face}
    if not has_landmarks(clip) and any(compared[x] for x in compared if x in protocol.figures):
        found.append(NO_LANDMARKS)
    if judges.sync and "sync" in protocol.figures:
        found += [TOO_SHORT] * (not is_long_enough(len(clip.frames), len(clip.audio)))
    return found


def _starts_from_itself(clip: EvaluationClip) -> bool:
    return np.array_equal(clip.portrait, clip.frames[0])


def judge_crops(look: Callable, protocol: Protocol, frames, audio, boxes) -> Figures:
    """Sync_c, Sync_d and the offset in frames, in the crops that the protocol names.

    Nothing of a video that is too short for it.
    """
    figures = {}
    if not is_long_enough(len(frames), len(audio)):
        return figures
    for i, crop in enumerate(protocol.sync_crops):
        sync = look(frames, audio, boxes if crop == "pipeline" else None)
        suffix = f"_{crop}" if i else ""
        figures |= {
            f"sync_c{suffix}": sync.confidence,
            f"sync_d{suffix}": sync.distance,
            f"sync_offset{suffix}": float(sync.offset),
        }
    return figures


def emotion_name(emotion: int) -> str:
    """Empty if it is unknown."""
    return EMOTIONS[emotion] if emotion >= 0 else ""


def has_known_mesh(morphable: MorphableModel) -> bool:
    """Whether a model's 3DMM is the one that the synthetic world's coefficients are of."""
    return morphable.names == tuple(load_face_basis().names)
