"""The networks that judge: where they come from, whom they know, and whether they may judge at all.

A judge that a model was trained against says how well the model pleases it, not how good it is.
"""

import functools
import importlib
import itertools
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.face import MOUTH, FaceLandmarker, landmarker_model
from data_pipeline.records import trained_people
from reta_jax.experts.inception import FIDInception
from reta_jax.experts.landmark_net import into_lower_face, lower_face
from reta_jax.experts.load import load_expert
from reta_jax.files import file_digest
from reta_jax.images import to_float
from reta_jax.metrics.blocks import BLOCK, apply_exactly, in_blocks
from reta_jax.metrics.cache import digest, weights_digest
from reta_jax.metrics.chips import face_chip
from reta_jax.metrics.mouth import find_points
from reta_jax.metrics.sync import SyncJudge
from reta_jax.pretrained.load import Loaded, load
from reta_jax.weights import PARAMS_FILE, SYNTHETIC_WEIGHTS

JUDGES = SYNTHETIC_WEIGHTS.parent
ROOT = JUDGES.parents[1]  # of the project
IMPORTED = "weights"  # where reta_jax.pretrained puts what it imports
FAN_SIZE, OWN_SIZE = 224, 64  # pixels of the published Emotion-FAN, and of ours
FID_BLOCK = 10
MEDIAPIPE = "MediaPipe face landmarker"

Frames = UInt8[np.ndarray, "t h w 3"]


class Judge(NamedTuple):
    """A frozen network as a function of a video's uint8 frames."""

    network: str
    source: str  # as the user named it
    look: Callable[..., Any]
    sha256: str = ""  # of its weights and of how they are used
    files: tuple[str, ...] = ()  # SHA-256 of the files that they come from
    provenance: Sequence[dict[str, Any]] = ()  # records of where they come from
    people: tuple[str, ...] = ()  # whom it was trained on, if it is known
    held_out_score: float | None = None
    diagnosis: dict[str, Any] | None = None  # of reta_jax.train_expert, if it trained it


class Judges(NamedTuple):
    """None where no weights are at hand: its figures are left out, and the report says so."""

    mouth: Judge | None = None  # frames and face box (4,) to (t, 20, 2) in the lower face, or NaN
    emotion: Judge | None = None  # frames to an index into EMOTIONS
    face: Judge | None = None  # frames to (t, 68, 2) in [0, 1], NaN where there is no face
    identity: Judge | None = None  # frames to unit vectors (t, d)
    sync: Judge | None = None  # frames, voice and boxes or None to `Sync`
    inception: Judge | None = None  # frames to (t, 2048)

    @property
    def sha256(self) -> dict[str, str]:
        return {name: judge.sha256 for name, judge in self._asdict().items() if judge}

    @property
    def provenance(self) -> list[dict[str, Any]]:
        return [record for judge in self if judge for record in judge.provenance]


def load_judges(
    folder: Path = JUDGES,
    emotion: Path | None = None,
    identity: str | None = None,
    syncnet: Path | None = None,
    inception: Path | None = None,
    face_landmarker: Path | None = None,
) -> Judges:
    """The judges under `folder` (of reta_jax.train_expert), and those that are named.

    Args:
      folder: landmark_net and emotion_fan must be there; face_net, identity_net and syncnet_v2 may.
      emotion: an Emotion-FAN instead of the folder's.
      identity: a folder as of identity_net, or MODULE:FUNCTION of anybody's network, which takes
        uint8 frames (t, h, w, 3) and gives vectors (t, d), also of pictures that show no face. It
        is tried on two of noise.
      syncnet: SyncNet v2; default weights/syncnet_v2, if it was imported there, else the folder's.
      inception: the FID's Inception; default weights/fid_inception, likewise.
      face_landmarker: MediaPipe's model, instead of landmark_net and face_net, which know rendered
        people; it also sees blinks. Faces are aligned with it for a published Emotion-FAN, for
        which the one at hand is taken if none is named.

    Raises:
      InputError: named weights are missing or of another kind, or a published Emotion-FAN has no
        landmarker.
    """
    there = lambda path: path if path.is_dir() else None
    own = lambda name: there(folder / name)
    imported = lambda name: there(_at_hand(f"{IMPORTED}/{name}"))
    who = identity or own("identity_net")
    mediapipe = _mediapipe(face_landmarker) if face_landmarker else None
    if mediapipe:
        face, mouth = mediapipe, _lips(mediapipe)
    else:
        face = _of_pictures("landmark_net", own("face_net")) if own("face_net") else None
        mouth = _mouth(folder / "landmark_net")
    syncnet = syncnet or imported("syncnet_v2") or own("syncnet_v2")
    inception = inception or imported("fid_inception")
    return Judges(
        mouth=mouth,
        emotion=_emotion(emotion or folder / "emotion_fan", mediapipe),
        face=face,
        identity=who and (_function(who) if ":" in str(who) else _of_pictures("identity_net", who)),
        sync=_sync(syncnet) if syncnet else None,
        inception=_inception(inception) if inception else None,
    )


def _mouth(source: Path) -> Judge:
    network, loaded, about = _load("landmark_net", source)

    @jax.jit
    def find(variables, box, frames):
        boxes = jnp.broadcast_to(box, (len(frames), 4))
        faces = lower_face(to_float(frames), boxes, network.size)
        return apply_exactly(network, variables, faces)

    look = lambda frames, box: in_blocks(functools.partial(find, loaded.variables, box), frames)
    return about._replace(look=look)


def _of_pictures(kind: str, source: str | Path) -> Judge:
    """A judge that says something of each picture alone, whole as it is."""
    network, loaded, about = _load(kind, source)
    find = _on_pictures(network, loaded.variables)
    return about._replace(look=functools.partial(in_blocks, find))


def _on_pictures(network: nn.Module, variables: Any) -> Callable[[Frames], Any]:
    """A compiled network of uint8 pictures; its weights are arguments, not constants, of it."""
    find = jax.jit(lambda variables, frames: apply_exactly(network, variables, to_float(frames)))
    return functools.partial(find, variables)


def _mediapipe(model: Path | None) -> Judge:
    """Of the model that is named, or at hand."""
    model = landmarker_model(model)
    landmarker = FaceLandmarker(model)
    last = None, np.zeros(0)  # both judges look at the same frames

    def look(frames: Frames) -> Float[np.ndarray, "t 68 2"]:
        nonlocal last
        if last[0] is not frames:
            last = frames, find_points(frames, landmarker) / frames.shape[2:0:-1]
        return last[1]

    return Judge(MEDIAPIPE, str(model), look, file_digest(model))


def _lips(face: Judge) -> Judge:
    """A judge of mouths that takes the lips from a face's landmarks."""

    def look(frames: Frames, box: Float[np.ndarray, "4"]) -> Float[np.ndarray, "t 20 2"]:
        return into_lower_face(np.float32(face.look(frames)[:, MOUTH]), box[None])

    return face._replace(look=look)


def _function(source: str) -> Judge:
    """Anybody's identity network, by MODULE:FUNCTION."""
    module, _, name = source.partition(":")
    if not module or not name.isidentifier():
        raise InputError(f"--identity {source} is no MODULE:FUNCTION and no folder")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"no identity network at {source}: {error}") from error
    if not callable(found):
        raise InputError(f"no identity network at {source}: that is no function")

    def look(frames: Frames) -> Float[np.ndarray, "t d"]:
        vectors = np.asarray(found(frames), np.float32)
        if vectors.ndim != 2 or len(vectors) != len(frames):
            raise InputError(f"{source} made {vectors.shape} of {len(frames)} frames, not (t, d)")
        if not np.isfinite(vectors).all():
            raise InputError(f"{source} made numbers that are not finite of a clip's frames")
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    # By what it makes of pictures: whatever weights and code are behind it, they show there.
    return Judge(name, source, look, digest(source, look(_NOISE).round(3).tobytes()))


_NOISE = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)


def _emotion(source: Path, mediapipe: Judge | None) -> Judge:
    """Our own looks at the frames as they are, a published one at dlib's chips of their faces."""
    network, loaded, about = _load("emotion_fan", source)
    config, align, usual_size = loaded.config, lambda frames: frames, OWN_SIZE
    if config.get("provenance"):
        face, usual_size = mediapipe or _aligner(source), FAN_SIZE
        align = functools.partial(_chips, face)
        about = about._replace(sha256=digest(about.sha256, face.sha256))
    size = config.get("image_size", usual_size)
    labels = [EMOTIONS.index(label) for label in config.get("labels", EMOTIONS)]

    @jax.jit
    def feel(variables, frames):
        shape = (len(frames), size, size, 3)
        small = jax.image.resize(to_float(frames), shape, "linear", antialias=True)
        return apply_exactly(network, variables, small[None])[0][0]

    def look(frames: Frames) -> int:
        shown = _spread(align(_spread(frames)))
        return labels[int(np.argmax(feel(loaded.variables, shown)))]

    return about._replace(look=look)


def _spread(frames: Frames) -> UInt8[np.ndarray, "_ h w 3"]:
    """As many frames as one call takes, from the first to the last."""
    return frames[np.linspace(0, len(frames) - 1, BLOCK).round().astype(int)]


def _aligner(source: Path) -> Judge:
    try:
        return _mediapipe(None)
    except InputError as error:
        raise InputError(
            f"{source} is a published Emotion-FAN, for which faces are aligned: {error}"
        ) from error


def _chips(face: Judge, frames: Frames) -> UInt8[np.ndarray, "_ _ _ 3"]:
    """The faces that are seen, aligned; all frames as they are where none is."""
    points = face.look(frames) * frames.shape[2:0:-1]
    seen = np.flatnonzero(np.isfinite(points).all((1, 2)))
    if not seen.size:
        return frames
    return np.stack([face_chip(frames[i], points[i], FAN_SIZE) for i in seen])


def _sync(source: Path) -> Judge:
    network, loaded, about = _load("syncnet_v2", source)
    return about._replace(look=SyncJudge(network, loaded.variables))


def _inception(source: Path) -> Judge:
    loaded = load("fid_inception", str(source))
    find = _on_pictures(FIDInception(), loaded.variables)
    look = functools.partial(in_blocks, find, block=FID_BLOCK)
    return _about("fid_inception", source, loaded)._replace(look=look)


def _load(kind: str, source: str | Path) -> tuple[nn.Module, Loaded, Judge]:
    network, loaded = load_expert(kind, str(source), {})
    return network, loaded, _about(kind, source, loaded)


def _about(kind: str, source: str | Path, loaded: Loaded) -> Judge:
    used = {name: loaded.config.get(name) for name in ("fields", "labels", "image_size")}
    # An Emotion-FAN's size hangs on whether it is published.
    used["is_published"] = bool(loaded.config.get("provenance"))
    own = Path(source) / PARAMS_FILE
    files = {file["sha256"] for record in loaded.provenance for file in record.get("files", ())}
    return Judge(
        network=kind,
        source=str(source),
        look=lambda *_: None,
        sha256=digest(weights_digest(loaded.variables), kind, json.dumps(used, sort_keys=True)),
        files=tuple(sorted(files | ({file_digest(own)} if own.is_file() else set()))),
        provenance=loaded.provenance,
        people=tuple(loaded.config.get("people", ())),
        held_out_score=loaded.config.get("held_out_score"),
        diagnosis=loaded.config.get("diagnosis"),
    )


# Expert: its loss.
TEACHERS = {"teacher": "emotion", "sync": "sync", "vgg": "perceptual", "lips": "lips"}


def objections(
    judges: Judges, config: ConfigDict | dict[str, Any], shown: Collection[str] = ()
) -> list[str]:
    """Why a judge's word on the model of this config is worth less, a sentence each.

    Its weights are those of a network the model was trained against, or it was trained on the
    people that the model was trained on, or on those of the clips, or it is not known on whom. The
    model's own figures are doubted, too, if it was trained on people of these clips.

    Args:
      shown: identities of the clips.
    """
    teachers, people, shown = _teachers_files(config), _people(config), set(shown)
    found = []
    if people is None:
        found.append(
            "it is not known whom the model was trained on (its data is not at hand): nobody can "
            "say whether it, or a judge, knows these people"
        )
    elif known := people & shown:
        found.append(f"the model was trained on {_some(known)} of the people that are judged")
    for name, judge in judges._asdict().items():
        if judge is None:
            continue
        if taught := [teacher for teacher, files in teachers.items() if files & set(judge.files)]:
            found.append(
                f"the {name} judge ({judge.source}) is a network that the model was trained "
                f"against ({', '.join(taught)}): its figures say how well the model pleases it"
            )
        for whose, they in (("that the model was trained on", people), ("that are judged", shown)):
            if known := (they or set()) & set(judge.people):
                found.append(
                    f"the {name} judge was trained on {_some(known)} of the people {whose}"
                )
    if unknown := [name for name, judge in judges._asdict().items() if _may_know_anybody(judge)]:
        found.append(
            f"it is not known whom the {', '.join(unknown)} "
            f"{'judge' if len(unknown) == 1 else 'judges'} learned from: the people that the model "
            "was trained on may be among them"
        )
    return found


def _some(people: set[str]) -> str:
    return f"{len(people)} ({min(people)}, …)"


def is_own(judge: Judge) -> bool:
    """Whether it is one of those that come with the project, which know rendered people only."""
    return Path(judge.source).resolve().parent == JUDGES.resolve()


def is_filmed(identity: str) -> bool:
    """Whether somebody known is not of the synthetic world, which the project's own judges know."""
    return bool(identity) and not identity.startswith("synthetic_")


def without_own(judges: Judges, named: Collection[str]) -> Judges:
    """For filmed people: those of the project are left out, but for those that are `named`."""
    left = [
        name
        for name, judge in judges._asdict().items()
        if judge and is_own(judge) and name not in named
    ]
    return judges._replace(**dict.fromkeys(left))


def _may_know_anybody(judge: Judge | None) -> bool:
    """Whether it was trained by this project and does not say on whom; published ones never do."""
    return judge is not None and judge.held_out_score is not None and not judge.people


def _teachers_files(config: ConfigDict | dict[str, Any]) -> dict[str, set[str]]:
    """SHA-256 of the files of each network that a loss of the config uses, where they can be had.

    And of all that its runs recorded: published files, own teachers, those of earlier runs.
    """
    found = {}
    for expert, loss in TEACHERS.items():
        if not config["loss"].get(loss):  # off, or younger than the model
            continue
        path = _at_hand(config["experts"][expert]["weights"]) / PARAMS_FILE
        if path.is_file():
            found[f"experts.{expert}"] = {file_digest(path)}
    for record in config.get("provenance", ()):
        files = {file["sha256"] for file in record.get("files", ())}
        found[record["source"]] = found.get(record["source"], set()) | files
    return found


def _people(config: ConfigDict | dict[str, Any]) -> set[str] | None:
    """Whom the model was trained on, as its runs recorded or as its data says; None: not known."""
    recorded = [record["people"] for record in config.get("provenance", ()) if "people" in record]
    dirs = [_at_hand(dir) for dir in config["data"]["dirs"]]
    at_hand = [dir for dir in dirs if (dir / "records").is_dir()]
    if not recorded and len(at_hand) < len(dirs):
        return None
    return {*itertools.chain(*recorded), *trained_people(at_hand)}


def _at_hand(place: str) -> Path:
    """Where a config's relative place is: below the working directory, else below the project."""
    path = Path(place)
    return path if path.exists() else ROOT / path
