"""The synthetic world: talking people whose every motion is known (DESIGN: the embedded default).

A clip is a person (`synthetic_face.Identity`) who says random words (`synthetic_voice.utter`) with
an emotion. The voice's articulation moves jaw and lips; the emotion moves brows, lids, cheeks, nose
and the mouth's corners beneath it; the head nods with the voice and sways; the eyes blink and look
around. The sum of all this is `Clip.coefficients`: the frames are drawn from exactly these numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int16, Int32, UInt8
from scipy.ndimage import gaussian_filter1d

from data_pipeline.audio import FPS
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.face import sync_box
from data_pipeline.face_basis import load_face_basis
from data_pipeline.synthetic_face import RIGID, Identity, render
from data_pipeline.synthetic_klatt import Speaker
from data_pipeline.synthetic_phonemes import PHONEMES
from data_pipeline.synthetic_voice import Utterance, utter

BILABIALS = tuple(PHONEMES.index(name) for name in ("p", "b", "m"))
MAX_TURN = np.radians(5.0)


class Clip(NamedTuple):
    """T frames at 25 fps, size S, with the truth; the fields of one record."""

    frames: UInt8[np.ndarray, "t s s 3"]
    audio: Int16[np.ndarray, " n"]  # 16 kHz, N = 640 T
    landmarks: Float32[np.ndarray, "t 68 2"]  # x, y in [0, 1]
    sync_box: Float32[np.ndarray, " 4"]  # y0, x0, y1, x1 in [0, 1]
    coefficients: Float32[np.ndarray, "t 64"]  # activations of FaceBasis.names
    phonemes: Int32[np.ndarray, " t"]  # index into synthetic_phonemes.PHONEMES
    emotion: int  # index into EMOTIONS
    identity: str
    clip: str


def _both(**modes: float) -> dict[str, float]:
    return {f"{name}_{side}": value for name, value in modes.items() for side in "LR"}


EXPRESSIONS: dict[str, dict[str, float]] = {
    "angry": _both(browDown=1.0, noseSneer=0.45, eyeSquint=0.3, eyeWide=0.3, mouthFrown=0.5)
    | _both(mouthLowerDown=0.35, mouthPress=0.3, mouthStretch=0.2)
    | {"nostrilFlare": 1.0, "jawForward": 0.3, "headPitch": 0.06},
    "contempt": {
        "mouthSmile_L": 0.55,
        "mouthDimple_L": 1.0,
        "cheekSquint_L": 0.7,
        "mouthUpperUp_L": 0.3,
    }
    | {"browOuterUp_R": 0.75, "browInnerUp_R": 0.2, "browDown_L": 0.7, "mouthPress_R": 0.3}
    | {"mouthLeft": 0.25, "eyeSquint_L": 0.5, "eyeSquint_R": 0.25}
    | {"headPitch": -0.05, "headRoll": 0.06, "headYaw": 0.05},
    "disgusted": _both(noseSneer=1.0, mouthUpperUp=0.55, browDown=0.55, eyeSquint=0.7)
    | _both(cheekRaiser=0.6, mouthFrown=0.35)
    | {"mouthShrugLower": 0.25, "headPitch": -0.03},
    "fear": _both(browInnerUp=1.0, browOuterUp=0.2, browDown=0.4, eyeWide=1.0, mouthStretch=0.9)
    | _both(mouthLowerDown=0.3)
    | {"jawOpen": 0.05, "headPitch": -0.03},
    "happy": _both(mouthSmile=0.85, cheekRaiser=0.7, cheekSquint=0.5, eyeSquint=0.35)
    | _both(mouthUpperUp=0.15, mouthDimple=0.2, browOuterUp=0.12),
    "neutral": {},
    "sad": _both(browInnerUp=1.0, browDown=0.3, mouthFrown=0.9, eyeBlink=0.22, eyeLookDown=0.25)
    | {"mouthShrugLower": 0.4, "headPitch": 0.06, "headRoll": -0.02},
    "surprised": _both(browInnerUp=1.0, browOuterUp=1.0, eyeWide=0.9)
    | {"jawOpen": 0.16, "mouthFunnel": 0.12, "headPitch": -0.02},
}


def synthesize_clip(
    identity_seed: int, emotion: str, clip_seed: int, seconds: float, size: int = 256
) -> Clip:
    """A person says something. The same arguments give the same clip.

    `identity_seed` fixes face, voice, light and background; `clip_seed` the words and the motion.
    One person's clips of one seed say the same words in every emotion.

    Raises InputError for an unknown emotion, a size below 16 pixels or less than one frame.
    """
    if emotion not in EMOTIONS:
        raise InputError(f"There is no emotion {emotion!r}: take one of {', '.join(EMOTIONS)}.")
    if size < 16:
        raise InputError(f"A frame of {size} pixels is too small: ask for 16 or more.")
    person = Identity.from_seed(identity_seed)
    words = int(np.random.SeedSequence([identity_seed, clip_seed, 11]).generate_state(1)[0])
    voice = utter(words, emotion, seconds, speaker_of(person))
    label = EMOTIONS.index(emotion)
    rng = np.random.default_rng([identity_seed, clip_seed, label, 13])
    coefficients = perform(voice, emotion, rng)
    frames, landmarks = render(person, coefficients, size)
    name = f"synthetic_{identity_seed:05d}"
    return Clip(
        frames=frames,
        audio=voice.audio,
        landmarks=landmarks,
        sync_box=sync_box(landmarks),
        coefficients=coefficients,
        phonemes=voice.phonemes,
        emotion=label,
        identity=name,
        clip=f"{name}_{emotion}_{clip_seed:05d}",
    )


def speaker_of(person: Identity) -> Speaker:
    """The voice of a person: the first drawn one that suits the face."""
    wanted = (160.0, 240.0) if person.feminine else (0.0, 160.0)
    for attempt in range(100):
        seed = np.random.SeedSequence([person.seed, attempt, 17]).generate_state(1)[0]
        speaker = Speaker.from_seed(int(seed))
        if wanted[0] <= speaker.base_pitch < wanted[1]:
            break
    return speaker


# ------------------------------------------------------------------------------------------------
# What the face does
# ------------------------------------------------------------------------------------------------


def perform(
    voice: Utterance, emotion: str, rng: np.random.Generator
) -> Float32[np.ndarray, "t 64"]:
    """The coefficients (T, 64) of a clip: articulation over emotion, blinks, gaze, head."""
    names = load_face_basis().names
    frames = len(voice.phonemes)
    speech = np.zeros((frames, len(names)))
    for mode, curve in voice.articulation.items():
        speech[:, names.index(mode)] = curve
    feeling = _feeling(emotion, frames, rng)
    _keep_speech_readable(speech, feeling)
    total = np.clip(speech + feeling, -1.0, 1.0)
    _seal_lips(total, speech, voice.phonemes)
    _move_eyes(total, rng)
    _move_head(total, voice.energy, rng)
    return total.astype(np.float32)


def _slow(frames: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise (T,) of unit deviation over long times."""
    sigma = seconds * FPS
    pad = int(4 * sigma)
    noise = gaussian_filter1d(rng.normal(size=frames + 2 * pad), sigma)[pad : pad + frames]
    return noise * np.sqrt(2 * np.sqrt(np.pi) * sigma)


def _feeling(emotion: str, frames: int, rng: np.random.Generator) -> np.ndarray:
    """The emotion's coefficients (T, 64): an intensity of its own per clip, and slow waves."""
    names = load_face_basis().names
    swap = emotion == "contempt" and rng.random() < 0.5
    intensity = rng.uniform(0.7, 1.0) * (1 + 0.12 * _slow(frames, 0.8, rng)).clip(0.7, 1.2)
    feeling = np.zeros((frames, len(names)))
    for mode, value in EXPRESSIONS[emotion].items():
        if swap:
            mode, value = _mirrored(mode, value)
        personal = rng.uniform(0.85, 1.1)
        feeling[:, names.index(mode)] = value * personal * intensity
    return feeling


def _mirrored(mode: str, value: float) -> tuple[str, float]:
    if mode in ("headYaw", "headRoll"):
        return mode, -value
    swapped = {"_L": "_R", "_R": "_L"}
    if mode[-2:] in swapped:
        return mode[:-2] + swapped[mode[-2:]], value
    return {"mouthLeft": "mouthRight", "mouthRight": "mouthLeft"}.get(mode, mode), value


def lip_gap_modes() -> tuple[float, np.ndarray]:
    """(rest, modes): the gap between the inner lips is rest + modes @ p_exp, in cm.

    It is the mean over the three middle pairs of inner-lip landmarks.
    """
    basis = load_face_basis()
    upper, lower = basis.landmark_vertices[[61, 62, 63]], basis.landmark_vertices[[67, 66, 65]]
    rest = (basis.mean[upper, 1] - basis.mean[lower, 1]).mean()
    modes = (basis.expression[upper, 1] - basis.expression[lower, 1]).mean(0)
    modes = modes.copy()
    modes[RIGID : RIGID + 6] = 0
    return float(rest), modes


def _keep_speech_readable(speech: np.ndarray, feeling: np.ndarray) -> None:
    """Weaken in place what in an emotion would shut a speaking mouth: pressed, shrugged lips."""
    _, modes = lip_gap_modes()
    openness = np.clip((speech @ modes - 0.1) / 0.6, 0, 1)
    closing = modes < -0.03
    feeling[:, closing] *= 1 - 0.85 * openness[:, None]


def _seal_lips(total: np.ndarray, speech: np.ndarray, phonemes: np.ndarray) -> None:
    """Close the lips in place on p, b, m as far as the articulation would, whatever the emotion."""
    rest, modes = lip_gap_modes()
    spoken = np.isin(phonemes, BILABIALS).astype(np.float64)
    near = np.maximum(gaussian_filter1d(spoken, 0.7), spoken)
    gap = rest + speech @ modes
    shut = near * np.clip(1 - (gap - 0.05) / 0.4, 0, 1)
    excess = np.maximum(rest + total @ modes - np.minimum(gap, 0.05), 0) * shut
    close = load_face_basis().names.index("mouthClose")
    total[:, close] += excess / -modes[close]


def _move_eyes(total: np.ndarray, rng: np.random.Generator) -> None:
    """Add blinks every few seconds and small changes of gaze, in place."""
    names = load_face_basis().names
    frames = len(total)
    gaze = np.zeros((frames, 2))
    frame = 0
    while frame < frames:
        length = int(rng.uniform(0.5, 2.2) * FPS)
        gaze[frame : frame + length] = rng.normal(0, (0.10, 0.06)) * (rng.random() < 0.7)
        frame += length
    gaze = gaussian_filter1d(gaze, 0.6, axis=0)
    right, up = gaze.T
    for mode, value in {
        "eyeLookOut_L": right, "eyeLookIn_R": right, "eyeLookIn_L": -right, "eyeLookOut_R": -right,
        "eyeLookUp_L": up, "eyeLookUp_R": up, "eyeLookDown_L": -up, "eyeLookDown_R": -up,
    }.items():  # fmt: skip
        total[:, names.index(mode)] += np.maximum(value, 0)

    blink = np.zeros(frames)
    frame = int(rng.uniform(0.3, 3.5) * FPS)
    while frame < frames:
        shape = np.array([0.35, 0.92, 1.0, 0.75, 0.35, 0.1])[: frames - frame]
        blink[frame : frame + len(shape)] = shape
        frame += int(rng.uniform(2.4, 5.0) * FPS)
    for side in "LR":
        lid = names.index(f"eyeBlink_{side}")
        for mode in ("eyeWide", "eyeSquint", "eyeLookDown", "eyeLookUp"):
            total[:, names.index(f"{mode}_{side}")] *= 1 - blink
        total[:, lid] = np.maximum(total[:, lid] * (1 - blink) + blink, 0)


def _move_head(total: np.ndarray, energy: np.ndarray, rng: np.random.Generator) -> None:
    """Nod with the voice's energy and sway slowly, in place; turns stay within 5 degrees."""
    names = load_face_basis().names
    frames = len(total)
    loud = gaussian_filter1d(np.sqrt(energy.astype(np.float64)), 2.5)
    nod = (loud - gaussian_filter1d(loud, 20.0)) / max(float(np.sqrt(energy).max()), 1e-3)
    sway = {"headPitch": 0.014, "headYaw": 0.022, "headRoll": 0.012}
    for mode, amplitude in sway.items():
        total[:, names.index(mode)] += amplitude * _slow(frames, 1.0, rng)
    total[:, names.index("headPitch")] += 0.10 * nod
    for mode in sway:
        total[:, names.index(mode)] = MAX_TURN * np.tanh(total[:, names.index(mode)] / MAX_TURN)
    for mode, amplitude in {"headX": 0.12, "headY": 0.08, "headZ": 0.15}.items():
        total[:, names.index(mode)] += amplitude * _slow(frames, 1.2, rng)
    lift = 0.12 * np.clip(nod, 0, 1)
    for side in "LR":
        total[:, names.index(f"browOuterUp_{side}")] += lift
