"""Videos of any system against the real ones: pictures, and what MediaPipe's landmarks say.

Nothing of how the videos were made is needed; pairs have the same name, frames are compared in
order, as many as the shorter one has, at the real one's size.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.audio import SAMPLES_PER_FRAME
from data_pipeline.datasets import folder
from data_pipeline.datasets.raw import video_files
from data_pipeline.emotions import EMOTIONS, UNKNOWN_EMOTION, emotion_of
from data_pipeline.errors import InputError
from data_pipeline.face import FaceLandmarker, crop, emoca_box, smooth_boxes, sync_box
from data_pipeline.video import Video, read_video
from reta_jax.metrics.clips import TOO_SHORT, compare_pixels, fid_features, judge_crops
from reta_jax.metrics.judges import FAN_SIZE, Judges
from reta_jax.metrics.landmarks import (
    LIPS,
    PIXELS,
    PIXELS_SIDE,
    blinks_per_minute,
    eye_distance,
    eye_opening,
    head_motion,
    lip_landmark_error,
    shape_distance,
)
from reta_jax.metrics.mouth import Lips, compare_lips, find_points, opening
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.rendering import resized
from reta_jax.metrics.rows import BLURRED, GENERATED, PORTRAIT, TRUTH, known_videos, rows
from reta_jax.metrics.statistics import Figures
from reta_jax.metrics.sync import is_long_enough


class Pair(NamedTuple):
    """The same clip, generated and real."""

    name: str  # of the generated one, without suffix, below its folder
    generated: Path
    real: Path
    emotion: int  # index into EMOTIONS, or UNKNOWN_EMOTION


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
SLACK = 0.02  # by which proportions may differ


class Face(NamedTuple):
    """What a video shows, frame by frame; NaN where no face was seen."""

    frames: UInt8[np.ndarray, "t h w 3"]
    points: Float[np.ndarray, "t 68 2"]


def read_labels(path: Path) -> dict[str, int]:
    """The emotions of a CSV file with columns `id`, a video's name without suffix, and `emotion`.

    Raises:
      InputError: it is no such file, or a word names none of EMOTIONS.
    """
    words = folder.read_column(path, "emotion")
    named = {name: emotion_of(word or "") for name, word in words.items()}
    if unknown := [f"{words[name]!r} of {name}" for name, found in named.items() if not found]:
        raise InputError(f"{path}: no emotion is called {unknown[0]}; take {', '.join(EMOTIONS)}")
    return {name: EMOTIONS.index(found) for name, found in named.items()}


def find_pairs(generated: Path, real: Path, labels: Mapping[str, int] | None = None) -> list[Pair]:
    """Videos of the same name in two folders: of the same place below them, but for the suffix.

    Where the real folder has nothing in that place, the file name is enough, if each folder has it
    once.

    Args:
      labels: emotions by place or file name; of those that it lacks, what their paths state as
        MEAD's do.

    Raises:
      InputError: one is no folder, or a generated video has no real one, or several (it is named),
        or the labels name none.
    """
    made, reals = video_files(generated), video_files(real)
    for folder_of, videos in ((generated, made), (real, reals)):
        if not videos:
            raise InputError(f"no video is in {folder_of}")
    by_place = _grouped((_place(path, real), path) for path in reals)
    by_stem = _grouped((path.stem, path) for path in reals)
    places = collections.Counter(_place(path, generated) for path in made)
    stems = collections.Counter(path.stem for path in made)
    pairs, missing, unclear = [], [], []
    for path in made:
        name = _place(path, generated)
        found, rivals = by_place.get(name, []), places[name]
        if not found:
            found, rivals = by_stem.get(path.stem, []), stems[path.stem]
        if not found:
            missing.append(path.name)
        elif len(found) > 1 or rivals > 1:
            unclear.append(name)
        else:
            pairs.append(Pair(name, path, found[0], folder.emotion_of(found[0].relative_to(real))))
    if missing:
        raise InputError(
            f"no real video in {real} goes with the {', '.join(missing[:3])} of {generated}: names "
            "must be the same"
        )
    if unclear:
        raise InputError(
            f"{', '.join(unclear[:3])}: which videos of {generated} and {real} go together cannot "
            "be told by their names; put them in folders of the same names, each video once"
        )
    return pairs if labels is None else _labelled(pairs, labels)


def _labelled(pairs: list[Pair], labels: Mapping[str, int]) -> list[Pair]:
    """The pairs with the labels' emotions, by place or by a file name that only one of them has."""
    stems = collections.Counter(Path(pair.name).name for pair in pairs)
    found, is_used = [], False
    for pair in pairs:
        stem = Path(pair.name).name
        names = [pair.name, *([stem] if stems[stem] == 1 else [])]
        if named := [name for name in names if name in labels]:
            pair, is_used = pair._replace(emotion=labels[named[0]]), True
        found.append(pair)
    if not is_used:
        raise InputError(f"--labels: no generated video is called {', '.join(list(labels)[:3])}")
    return found


def _place(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _grouped(videos: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    found = collections.defaultdict(list)
    for name, path in videos:
        found[name].append(path)
    return found


def read_pairs(
    pairs: list[Pair], landmarker: FaceLandmarker, count: int | None = None
) -> Iterator[tuple[Pair, Face, Face, Decoded]]:
    """Each pair's generated and real face, and what they were found in.

    The next pair is decoded while this one is judged.

    Args:
      count: of each video, the first so many frames; None: all.
    """
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(_decode, pair, count) for pair in pairs[:1]]
        for i, pair in enumerate(pairs):
            decoded = coming.pop().result()
            coming += [reader.submit(_decode, other, count) for other in pairs[i + 1 : i + 2]]
            videos = decoded.generated, decoded.real
            faces = (Face(one.frames, find_points(one.frames, landmarker)) for one in videos)
            yield pair, *faces, decoded


def _decode(pair: Pair, longest: int | None) -> Decoded:
    made, real = read_video(pair.generated), read_video(pair.real)
    (height, width), (made_height, made_width) = (x.frames.shape[1:3] for x in (real, made))
    lengths = {min(len(x.frames), longest or len(x.frames)) for x in (made, real)}
    remarks = [CUT] if len(lengths) > 1 else []
    if silent := SILENT.get((made.audio is not None, real.audio is not None)):
        remarks.append(silent)
    # Codecs need even sizes: a row or column more is no other shape.
    if abs(made_width * height - width * made_height) > SLACK * width * made_height:
        remarks.append(STRETCHED)
    elif (made_height, made_width) != (height, width):
        remarks.append(RESIZED)
    frames = [resized(frame, height, width) for frame in made.frames[: min(lengths)]]
    voice = real.audio if made.audio is None else made.audio
    return Decoded(
        made._replace(frames=np.stack(frames), audio=voice),
        real._replace(frames=real.frames[: min(lengths)]),
        remarks,
    )


def remarks_on_pair(judges: Judges, protocol: Protocol, decoded: Decoded) -> list[str]:
    """What could not be judged of a pair, or not as it was, in words that go on from "3 clips"."""
    (frames, voice), found = decoded.generated[:2], list(decoded.remarks)
    if judges.sync and "sync" in protocol.figures and voice is not None:
        found += [TOO_SHORT] * (not is_long_enough(len(frames), len(voice)))
    return found


def judge_pair(
    judges: Judges,
    protocol: Protocol,
    face: Face,
    real: Face,
    landmarker: FaceLandmarker,
    voice: Float[np.ndarray, " n"] | None,
    real_voice: Float[np.ndarray, " m"] | None,
    other_voice: Float[np.ndarray, " k"] | None,
    emotion: int = UNKNOWN_EMOTION,
) -> tuple[dict[str, Figures], dict[str, Float[np.ndarray, "f d"]]]:
    """Figures of every row of a pair, and features for the FID by row.

    The still portrait is the real one's first frame. Of the judges, those of sync, emotion,
    identity and FID are asked.

    Args:
      voice: the generated video's own: a voice that comes late there is the system's fault.
      real_voice: of all other rows but the one that has `other_voice`.
    """
    shown = {GENERATED: face.frames} | known_videos(real.frames, real.frames[0])
    faces = {GENERATED: face, TRUTH: real}
    for name in (BLURRED, PORTRAIT):
        faces[name] = Face(shown[name], find_points(shown[name], landmarker))
    people = {}
    if judges.identity and "identity" in protocol.figures:
        people = {name: judges.identity.look(frames) for name, frames in shown.items()}
    silence = np.zeros(len(real.frames) * SAMPLES_PER_FRAME, np.float32)
    figures, features = {}, {}
    known = rows(len(real.frames), silence if real_voice is None else real_voice, other_voice)
    for name, row in known.items():
        heard = None if real_voice is None else row.audio
        if row.video == GENERATED:
            heard = voice
        video = Face(*(x[row.at] for x in faces[row.video]))
        found = {}
        if "image" in protocol.figures:
            found |= compare_pixels(video.frames, real.frames)
        found |= compare_faces(video, real, heard)
        if people:
            same = (people[row.video][row.at] * people[TRUTH]).sum(1)
            found["identity_similarity"] = float(same.mean())
        if judges.emotion and "emotion" in protocol.figures and emotion != UNKNOWN_EMOTION:
            found |= judge_emotion(judges.emotion.look, video, emotion)
        boxes = face_boxes(video)
        if judges.sync and heard is not None and boxes is not None and "sync" in protocol.figures:
            found |= judge_crops(judges.sync.look, protocol, video.frames, heard, boxes)
        features |= fid_features(judges, protocol, name, video.frames)
        figures[name] = found
    return figures, features


def judge_emotion(
    look: Callable[[UInt8[np.ndarray, "t c c 3"]], int], video: Face, emotion: int
) -> Figures:
    """ACC_e of one video; nothing where no face is seen."""
    crops = face_crops(video)
    return {} if crops is None else {"emotion_accuracy": float(look(crops) == emotion)}


def face_crops(video: Face) -> UInt8[np.ndarray, "t c c 3"] | None:
    """The frames as EMOCA crops them, which is how emotion judges know faces; None without one."""
    seen = np.isfinite(video.points[:, 0, 0])
    if not seen.any():
        return None
    boxes = np.zeros((len(seen), 3))
    boxes[seen] = [emoca_box(points) for points in np.float32(video.points[seen])]
    boxes = smooth_boxes(boxes, seen)
    return np.stack(
        [crop(frame, box, FAN_SIZE) for frame, box in zip(video.frames, boxes, strict=True)]
    )


def face_boxes(video: Face) -> Float[np.ndarray, "t 4"] | None:
    """The face's box in every frame; None if no frame shows one.

    Through frames that show none it goes straight from one place to the next.
    """
    seen = np.flatnonzero(np.isfinite(video.points[:, 0, 0]))
    if not seen.size:
        return None
    height, width = video.frames.shape[1:3]
    points = np.float32(video.points[seen] / (width, height))
    boxes = np.stack([sync_box(face[None]) for face in points])
    at = np.arange(len(video.frames))
    return np.stack([np.interp(at, seen, edge) for edge in boxes.T], axis=1)


def compare_faces(face: Face, real: Face, voice: Float[np.ndarray, " n"] | None) -> Figures:
    """Figures of landmarks, in distances of the real one's outer eye corners.

    The distance of faces is as that of lips, the field's F-LMD. Figures that need a face leave out
    the frames without one.
    """
    figures = {"faces_seen": float(np.isfinite(face.points[:, 0, 0]).mean())}
    seen = np.isfinite(face.points[:, 0, 0]) & np.isfinite(real.points[:, 0, 0])
    if seen.sum() < 3:
        return figures
    points, truth = face.points[seen], real.points[seen]
    unit, pixels = float(eye_distance(truth).mean()), PIXELS_SIDE / face.frames.shape[1]
    lips, true_lips = (Lips(x[:, LIPS], opening(x)) for x in (face.points, real.points))
    distance = shape_distance(points, truth)
    return figures | {
        **compare_lips(lips, true_lips, unit, pixels, voice),
        "face_landmark_distance": distance / unit,
        f"face_landmark_distance{PIXELS}": distance * pixels,
        **lip_landmark_error(points, truth),
        "head_motion": head_motion(points),
        "blinks_per_minute": blinks_per_minute(eye_opening(face.points)),
    }
