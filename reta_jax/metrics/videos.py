"""Videos of any system against the real ones: pictures, and what MediaPipe's landmarks say.

Nothing of how the videos were made is needed; pairs have the same name, frames are compared in
order, as many as the shorter one has, at the real one's size.
"""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from data_pipeline.audio import FPS, SAMPLES_PER_FRAME
from data_pipeline.emotions import UNKNOWN_EMOTION
from data_pipeline.face import MOUTH, FaceLandmarker, crop, emoca_box, smooth_boxes, sync_box
from data_pipeline.video import Video, read_soundtrack, read_video, resized, stacked
from reta_jax.metrics.cache import Judged
from reta_jax.metrics.clips import (
    TOO_SHORT,
    emotion_name,
    fid_features,
    judge_crops,
    judge_emotion,
)
from reta_jax.metrics.image import compare_pixels
from reta_jax.metrics.judges import FAN_SIZE, Judges
from reta_jax.metrics.landmarks import PIXELS_SIDE, compare_faces, mean_eye_distance
from reta_jax.metrics.mouth import compare_lips, find_points
from reta_jax.metrics.pairs import Pair
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.rows import GENERATED, TRUTH, Row, known_videos, rows
from reta_jax.metrics.statistics import Figures
from reta_jax.metrics.sync import is_long_enough


class Decoded(NamedTuple):
    """A pair's frames, at the real one's size and as many as the shorter one has."""

    generated: Video
    real: Video
    remarks: list[str]  # what was made equal, in words that go on from "3 clips"


CUT = "are cut: their generated and real videos are not of one length"
STRETCHED = "are stretched: their generated and real videos have other proportions"
RESIZED = "are resized: their generated videos are of another size than the real ones"
SILENT = {  # is there sound in the generated one, in the real one?
    (False, False): "have no sound: nothing of the voice is judged",
    (True, False): "have no sound in their real video: of the generated one's alone is judged",
    (False, True): "have no sound in their generated video: it is judged with the real one's",
}
NO_CROP = (
    "have a video, generated or real, that never shows a face: there is no pipeline's crop of it, "
    "in which to judge synchrony"
)
NO_LANDMARKS = (
    "no landmarks: mouths, faces{} and the pipeline's crop are not judged: give --face-landmarker "
    "FILE"
)
SLACK = 0.02  # by which proportions may differ
LARGE = 2**30  # bytes of a pair's frames: beside one of more, the next one is not decoded


class Face(NamedTuple):
    """What a video shows, frame by frame."""

    frames: UInt8[np.ndarray, "t h w 3"]
    points: Float[np.ndarray, "t 68 2"] | None  # NaN without a face; None without a landmarker
    person: Float[np.ndarray, "t d"] | None = None  # None without a judge of identity

    def at(self, frames: Int[np.ndarray, " t"]) -> "Face":
        if np.array_equal(frames, np.arange(len(self.frames))):
            return self  # no copy
        return Face(*(None if x is None else x[frames] for x in self))


LANDMARKS = "landmarks"  # among the features of a reference


class Reference(NamedTuple):
    """What is made of a real video: the same for every system that is held against it."""

    rows: dict[str, Figures]  # all but the generated one
    features: dict[str, Float[np.ndarray, "..."]]  # for the FID by row, and LANDMARKS (t, 68, 2)
    person: Float[np.ndarray, "t d"]  # d = 0 without a judge

    def face(self, frames: UInt8[np.ndarray, "t h w 3"]) -> Face:
        person = self.person if self.person.size else None
        return Face(frames, self.features.get(LANDMARKS), person)


def read_pairs(pairs: list[Pair], longest: int | None = None) -> Iterator[tuple[Pair, Decoded]]:
    """Each pair, decoded; the next one is while this one is judged, but beside a LARGE one.

    Of large ones there is one in memory if whoever asks for the next has let go of the last.

    Args:
      longest: of each video, the first so many frames; None: all that the other one has.
    """
    with ThreadPoolExecutor(1) as reader:
        coming = None
        for i, pair in enumerate(pairs):
            decoded = (coming or reader.submit(_decode, pair, longest)).result()
            size, coming = decoded.generated.frames.nbytes + decoded.real.frames.nbytes, None
            if size <= LARGE and i + 1 < len(pairs):
                coming = reader.submit(_decode, pairs[i + 1], longest)
            yield pair, decoded
            del decoded


def _decode(pair: Pair, longest: int | None) -> Decoded:
    """No more is read than is compared, but for the one frame that tells that there are more."""
    made = read_video(pair.generated, None if longest is None else longest / FPS)
    most = min(len(made.frames) + 1, longest or np.inf)
    real = read_video(pair.real, most / FPS)
    (height, width), (made_height, made_width) = (x.frames.shape[1:3] for x in (real, made))
    count = min(len(real.frames), len(made.frames))
    remarks = [CUT] if len(real.frames) != len(made.frames) else []
    if silent := SILENT.get((made.audio is not None, real.audio is not None)):
        remarks.append(silent)
    # Codecs need even sizes: a row or column more is no other shape.
    if abs(made_width * height - width * made_height) > SLACK * width * made_height:
        remarks.append(STRETCHED)
    elif (made_height, made_width) != (height, width):
        remarks.append(RESIZED)
    frames = made.frames[:count]
    if (made_height, made_width) != (height, width):
        frames = stacked(resized(frame, height, width) for frame in frames)
    voice = real.audio if made.audio is None else made.audio
    return Decoded(
        made._replace(frames=frames, audio=voice),
        real._replace(frames=real.frames[:count]),
        remarks,
    )


def look(
    judges: Judges,
    protocol: Protocol,
    frames: UInt8[np.ndarray, "t h w 3"],
    landmarker: FaceLandmarker | None,
) -> Face:
    """What is seen in a video's frames."""
    points = None if landmarker is None else find_points(frames, landmarker)
    wanted = judges.identity is not None and "identity" in protocol.figures
    return Face(frames, points, judges.identity.look(frames) if wanted else None)


def judge_reference(
    judges: Judges,
    protocol: Protocol,
    real: Video,
    lender: Path | None,
    landmarker: FaceLandmarker | None,
    emotion: int = UNKNOWN_EMOTION,
) -> Reference:
    """Every row of a pair but the generated one; the still portrait is the first frame.

    Args:
      real: as many frames as are compared.
      lender: the video whose voice the row has that is heard with the wrong one.
    """
    count, other = len(real.frames), None
    if lender is not None and real.audio is not None:
        other = read_soundtrack(lender, count, count / FPS)
    if other is not None:
        other = np.trim_zeros(other, "b")  # of a shorter lender's voice `rows` is made by repeating
    videos = known_videos(real.frames, real.frames[0])
    truth, figures, features = look(judges, protocol, real.frames, landmarker), {}, {}

    def judge(name: str, row: Row) -> None:
        """Beside the truth's frames there are this row's own alone, until it returns."""
        video = truth
        if row.video != TRUTH:
            video = look(judges, protocol, videos[row.video](), landmarker)
        video, heard = video.at(row.at), None if real.audio is None else row.audio
        figures[name] = measure(judges, protocol, video, truth, heard, emotion)
        features.update(fid_features(judges, protocol, name, video.frames))

    silence = np.zeros(count * SAMPLES_PER_FRAME, np.float32)
    voice = silence if real.audio is None else real.audio
    for name, row in rows(count, voice, other).items():
        if row.video != GENERATED:
            judge(name, row)
    if truth.points is not None:
        features[LANDMARKS] = truth.points
    person = np.zeros((count, 0)) if truth.person is None else truth.person
    return Reference(figures, features, person)


def judge_pair(
    judges: Judges,
    protocol: Protocol,
    pair: Pair,
    decoded: Decoded,
    reference: Reference,
    landmarker: FaceLandmarker | None,
) -> Judged:
    """The row "generated" of a pair, beside those of its real video.

    It is judged with its own voice: one that comes late is the system's fault.
    """
    (frames, voice), real = decoded.generated, reference.face(decoded.real.frames)
    video = look(judges, protocol, frames, landmarker)
    figures = measure(judges, protocol, video, real, voice, pair.emotion)
    features = fid_features(judges, protocol, GENERATED, frames) | reference.features
    features.pop(LANDMARKS, None)
    return Judged(
        clip=pair.name,
        identity=pair.identity,
        emotion=emotion_name(pair.emotion),
        rows={GENERATED: figures, **reference.rows},
        features=features,
        person=np.zeros(0),
        frames=len(frames),
        remarks=remarks_on_pair(judges, protocol, decoded, video, real),
    )


def remarks_on_pair(
    judges: Judges, protocol: Protocol, decoded: Decoded, video: Face, real: Face
) -> list[str]:
    """What could not be judged of a pair, or not as it was, in words that go on from "3 clips"."""
    (frames, voice), found = decoded.generated, list(decoded.remarks)
    if judges.sync and "sync" in protocol.figures and voice is not None:
        found += [TOO_SHORT] * (not is_long_enough(len(frames), len(voice)))
        if "pipeline" in protocol.sync_crops and video.points is not None:
            found += [NO_CROP] * (not (_has_face(video).any() and _has_face(real).any()))
    return found


def measure(
    judges: Judges,
    protocol: Protocol,
    video: Face,
    real: Face,
    voice: Float[np.ndarray, " n"] | None,
    emotion: int = UNKNOWN_EMOTION,
) -> Figures:
    """Figures of one row. Of the judges, those of sync, emotion and identity are asked.

    Args:
      voice: None: nothing is heard.
    """
    figures: Figures = {}
    if "image" in protocol.figures:
        figures |= compare_pixels(video.frames, real.frames)
    if video.points is not None and "mouth" in protocol.figures:
        figures |= compare_mouths(video, real, voice)
    if video.points is not None and "face" in protocol.figures:
        unit, pixels = mean_eye_distance(real.points), _pixels(video)
        figures |= compare_faces(video.points, real.points, unit, pixels, sees_lids=True)
    if video.person is not None:
        figures["identity_similarity"] = float((video.person * real.person).sum(1).mean())
    if judges.emotion and "emotion" in protocol.figures and emotion != UNKNOWN_EMOTION:
        crops = face_crops(video)
        if crops is not None:
            figures |= judge_emotion(judges.emotion, crops, emotion)
    if judges.sync and "sync" in protocol.figures and voice is not None:
        figures |= judge_sync(judges.sync.look, protocol, video, voice)
    return figures


def judge_sync(
    look: Callable, protocol: Protocol, video: Face, voice: Float[np.ndarray, " n"]
) -> Figures:
    """Those of `judge_crops`; where no face is seen, of whole frames only."""
    boxes = face_boxes(video)
    if boxes is not None:
        return judge_crops(look, protocol, video.frames, voice, boxes)
    if "whole" not in protocol.sync_crops:
        return {}
    whole = dataclasses.replace(protocol, sync_crops=("whole",))
    suffix = "_whole" if protocol.sync_crops[0] != "whole" else ""
    figures = judge_crops(look, whole, video.frames, voice, None)
    return {f"{name}{suffix}": figure for name, figure in figures.items()}


def face_crops(video: Face) -> UInt8[np.ndarray, "t c c 3"] | None:
    """The frames as EMOCA crops them, which is how emotion judges know faces; None without one."""
    seen = _has_face(video)
    if not seen.any():
        return None
    boxes = np.zeros((len(seen), 3))
    boxes[seen] = [emoca_box(points) for points in np.float32(video.points[seen])]
    boxes = smooth_boxes(boxes, seen)
    return stacked(
        crop(frame, box, FAN_SIZE) for frame, box in zip(video.frames, boxes, strict=True)
    )


def face_boxes(video: Face) -> Float[np.ndarray, "t 4"] | None:
    """The face's box in every frame; None if no frame shows one.

    Through frames that show none it goes straight from one place to the next.
    """
    seen = np.flatnonzero(_has_face(video))
    if not seen.size:
        return None
    height, width = video.frames.shape[1:3]
    points = np.float32(video.points[seen] / (width, height))
    boxes = np.stack([sync_box(face[None]) for face in points])
    at = np.arange(len(video.frames))
    return np.stack([np.interp(at, seen, edge) for edge in boxes.T], axis=1)


def _has_face(video: Face) -> Bool[np.ndarray, " t"]:
    """In which frames a face is seen; in none without a landmarker."""
    if video.points is None:
        return np.zeros(len(video.frames), bool)
    return np.isfinite(video.points[:, 0, 0])


def compare_mouths(video: Face, real: Face, voice: Float[np.ndarray, " n"] | None) -> Figures:
    """Figures of `compare_lips`, in distances of the real one's outer eye corners."""
    lips, true_lips = (face.points[:, MOUTH] for face in (video, real))
    return compare_lips(lips, true_lips, mean_eye_distance(real.points), _pixels(video), voice)


def _pixels(video: Face) -> float:
    """What a pixel is at 256 px."""
    return PIXELS_SIDE / video.frames.shape[1]
