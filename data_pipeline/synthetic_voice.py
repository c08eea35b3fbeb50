"""The voice of the synthetic world: babble whose words, emotion and articulation are known.

A clip is made in four steps. A script of random pronounceable words is laid out on a grid of
5 ms ticks; the emotion's prosody gives it durations, pauses, a pitch contour and a voice quality;
a Klatt-type source-filter synthesiser speaks it (Klatt, "Software for a cascade/parallel formant
synthesizer", JASA 67, 1980); and visemes with dominance functions (Cohen & Massaro, 1993) give the
articulation. Sound and mouth come from the same script, so the articulation curves are the truth
for the sound. How emotion shapes the prosody follows Scherer, "Vocal communication of emotion",
Speech Communication 40 (2003); the numbers are set so that the eight emotions can be told apart
by a listener who does not know the speaker.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int16, Int32

from data_pipeline.audio import FPS, SAMPLES_PER_FRAME
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.synthetic_klatt import Speaker, blend, smooth, synthesise, to_level
from data_pipeline.synthetic_phonemes import (
    ACOUSTICS,
    DOMINANCE,
    IS_VOWEL,
    MODES,
    SHAPE,
    TICK,
    TICKS_PER_FRAME,
    TICKS_PER_SECOND,
)
from data_pipeline.synthetic_script import Prosody, Script, draw_prosody, write_script


class Utterance(NamedTuple):
    """T frames at 25 fps. Frame t describes samples [640 t, 640 (t + 1)), by its middle."""

    audio: Int16[np.ndarray, " n"]  # 16 kHz, N = 640 T
    phonemes: Int32[np.ndarray, " t"]  # index into PHONEMES, 0 = silence
    articulation: dict[str, np.ndarray]  # MODES -> float32 (T,) in [0, 1]
    energy: Float32[np.ndarray, " t"]  # RMS of the frame's samples, full scale = 1
    pitch: Float32[np.ndarray, " t"]  # Hz, 0 where unvoiced


def _position(script: Script, of_tick: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per tick: where it is in its syllable and in its phrase, 0 at the start, 1 at the end."""

    def within(group: np.ndarray) -> np.ndarray:
        if len(group) == 0:
            return np.zeros(0)
        start = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
        length = np.diff(start, append=len(group))
        return (np.arange(len(group)) - np.repeat(start, length)) / np.repeat(length, length)

    spoken = script.syllable[of_tick] >= 0
    syllable = script.syllable[of_tick][spoken]
    position = np.zeros((2, len(of_tick)))
    position[0, spoken] = within(syllable)
    position[1, spoken] = within(script.phrase[syllable])
    return position[0], position[1]


def _contour(
    rng: np.random.Generator, script: Script, of_tick: np.ndarray, prosody: Prosody
) -> np.ndarray:
    """Semitones above the speaker's base pitch, one per tick."""
    in_syllable, in_phrase = _position(script, of_tick)
    count = len(script.phrase)
    last = np.diff(script.phrase, append=-1) != 0
    height = prosody.accent * rng.uniform(0.7, 1.3, count + 1)  # entry -1 is silence
    ending = prosody.ending * rng.uniform(0.8, 1.2, count + 1) * np.append(last, False)
    syllable = script.syllable[of_tick]
    stress = script.stress[of_tick]
    contour = (
        prosody.pitch
        + prosody.slope * (in_phrase - 0.5)
        + height[syllable] * (1.5 * stress * np.sin(np.pi * in_syllable) - 0.6)
        + prosody.glide * stress * (in_syllable - 0.5)
        + ending[syllable] * in_syllable
    )
    quiet = syllable < 0
    voiced = np.flatnonzero(~quiet)
    if len(voiced):  # a pause keeps the pitch of its ends: no jump to smooth into the voice
        contour = np.interp(np.arange(len(contour)), voiced, contour[voiced])
    drift = smooth(rng.standard_normal(len(contour)), 0.15) * 1.2
    phase = 2 * np.pi * rng.uniform(6.5, 8.5) * np.arange(len(contour)) / TICKS_PER_SECOND
    return smooth(contour, 0.025) + drift + prosody.tremor * np.sin(phase + rng.uniform(0, 6.28))


def _articulate(
    script: Script, of_tick: np.ndarray, effort: np.ndarray, opening: float
) -> np.ndarray:
    """(ticks, modes): visemes blended by dominance; louder vowels open wider."""
    phase = script.phase[of_tick]
    gain = np.where(IS_VOWEL[phase], opening * effort, 1.0)
    curves = blend(SHAPE[phase] * gain[:, None], DOMINANCE[phase], 0.028)
    # In ICT-FaceKit 0.85 of mouthClose undoes one jawOpen, and 0.02 the rest pose's gap.
    jaw, close = MODES.index("jawOpen"), MODES.index("mouthClose")
    curves[:, close] *= 0.02 + 0.85 * curves[:, jaw]
    return np.clip(curves, 0.0, 1.0)


_LEVEL = -20.5  # dBFS of neutral speech


def utter(seed: int, emotion: str, seconds: float, speaker: Speaker) -> Utterance:
    """Random words in a speaker's voice and a given emotion, with the mouth that says them.

    The same arguments give the same clip; a seed has the same words in every emotion, as many as
    its tempo leaves room for. T = round(25 seconds); a clip too short for a syllable is silent.

    Raises:
        InputError: an unknown emotion, or less than one frame.
    """
    if emotion not in EMOTIONS:
        raise InputError(f"There is no emotion {emotion!r}: take one of {', '.join(EMOTIONS)}.")
    frames = round(seconds * FPS)
    if frames < 1:
        raise InputError(f"{seconds} s is less than one frame: ask for at least {1 / FPS} s.")
    text = np.random.default_rng([seed, 0])
    style = np.random.default_rng([seed, 1 + EMOTIONS.index(emotion)])
    prosody = draw_prosody(style, emotion)

    script = write_script(text, style, prosody, speaker.tempo, frames * TICKS_PER_FRAME)
    of_tick = np.repeat(np.arange(len(script.ticks)), script.ticks)
    phase = script.phase[of_tick]
    semitones = _contour(style, script, of_tick, prosody)
    pitch = np.clip(speaker.base_pitch * 2.0 ** (semitones / 12.0), 55.0, 620.0)
    _, in_phrase = _position(script, of_tick)
    loudness = 1.0 + 0.35 * (script.stress[of_tick] - 0.7) - 0.25 * (in_phrase - 0.5)
    effort = smooth(np.where(script.syllable[of_tick] < 0, 1.0, loudness), 0.03)

    sound = synthesise(style, phase, pitch, effort, prosody, speaker)
    spoken = np.repeat(script.syllable[of_tick] >= 0, TICK)
    level = _LEVEL + prosody.level + style.uniform(-1.0, 1.0)
    audio = to_level(sound, spoken, level)

    curves = _articulate(script, of_tick, effort, prosody.opening)
    middle = np.arange(frames) * TICKS_PER_FRAME + TICKS_PER_FRAME // 2
    voiced = smooth(ACOUSTICS["voice"][phase], 0.005)[middle] > 0.1
    blocks = audio.reshape(frames, SAMPLES_PER_FRAME) / 32768.0
    return Utterance(
        audio=audio,
        phonemes=script.label[of_tick][middle].astype(np.int32),
        articulation={mode: curves[middle, i].astype(np.float32) for i, mode in enumerate(MODES)},
        energy=np.sqrt(np.mean(blocks**2, axis=1)).astype(np.float32),
        pitch=np.where(voiced, pitch[middle], 0.0).astype(np.float32),
    )
