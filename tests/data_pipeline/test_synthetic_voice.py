"""The synthetic voice: what it says, how it feels, and the mouth that goes with it."""

import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from data_pipeline.audio import SAMPLE_RATE, SAMPLES_PER_FRAME, log_mel, to_float
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.face_basis import load_face_basis
from data_pipeline.synthetic_klatt import Speaker, synthesise
from data_pipeline.synthetic_phonemes import FIRST_PHASE, MODES, PHONEMES, VOWELS
from data_pipeline.synthetic_script import Prosody
from data_pipeline.synthetic_voice import Utterance, utter

MAN = Speaker(110.0, 1.0, 0.03, 1.0, 0.0, 0.003)


def clips(count: int, first: int = 0, seconds: float = 3.0) -> list[Utterance]:
    """Every emotion in turn, every clip with a speaker of its own."""
    return [
        utter(seed, EMOTIONS[seed % 8], seconds, Speaker.from_seed(seed))
        for seed in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def many() -> list[Utterance]:
    return clips(64)


def spoken(utterance: Utterance, *names: str) -> np.ndarray:
    return np.isin(utterance.phonemes, [PHONEMES.index(name) for name in names])


def semitones(utterance: Utterance) -> np.ndarray:
    return 12 * np.log2(utterance.pitch[utterance.pitch > 0] / 100.0)


# ---------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize("seconds", [0.04, 0.2, 0.5, 3.0, 3.013])
def test_curves_and_audio_have_the_shapes_and_ranges_of_the_contract(seconds):
    made = utter(3, "happy", seconds, Speaker.from_seed(1))
    frames = round(seconds * 25)
    assert made.audio.shape == (frames * SAMPLES_PER_FRAME,) and made.audio.dtype == np.int16
    assert made.phonemes.shape == (frames,) and made.phonemes.dtype == np.int32
    assert set(made.articulation) == set(MODES)
    for curve in (*made.articulation.values(), made.energy, made.pitch):
        assert curve.shape == (frames,) and curve.dtype == np.float32
        assert np.isfinite(curve).all() and (curve >= 0).all()
    assert all(curve.max() <= 1 for curve in made.articulation.values())
    rms = np.sqrt(np.mean((made.audio.reshape(frames, -1) / 32768.0) ** 2, axis=1))
    np.testing.assert_allclose(made.energy, rms, rtol=1e-5)


def test_the_same_arguments_give_the_same_clip_and_each_argument_matters():
    def make(seed=5, emotion="fear", speaker=7):
        return utter(seed, emotion, 1.5, Speaker.from_seed(speaker))

    first, again = make(), make()
    np.testing.assert_array_equal(first.audio, again.audio)
    np.testing.assert_array_equal(first.phonemes, again.phonemes)
    for mode in MODES:
        np.testing.assert_array_equal(first.articulation[mode], again.articulation[mode])
    for other in (make(seed=6), make(emotion="sad"), make(speaker=8)):
        assert (other.audio != first.audio).any()


def test_a_seed_says_the_same_words_in_every_emotion():
    def sounds(emotion):
        said = utter(11, emotion, 12.0, MAN).phonemes
        changes = said[np.flatnonzero(np.diff(said, prepend=-1))]
        return set(changes[changes > 0][:40].tolist())

    neutral = sounds("neutral")
    for emotion in EMOTIONS:
        other = sounds(emotion)
        assert len(neutral & other) > 0.8 * len(neutral | other)


def test_speakers_cover_men_women_and_children():
    pitches = np.array([Speaker.from_seed(seed).base_pitch for seed in range(300)])
    assert 0.3 < np.mean(pitches < 150) < 0.6
    assert 0.3 < np.mean((pitches > 170) & (pitches < 240)) < 0.6
    assert 0.04 < np.mean(pitches > 240) < 0.2


@pytest.mark.parametrize(("emotion", "seconds"), [("joyful", 1.0), ("happy", 0.01)])
def test_an_unknown_emotion_or_no_time_is_an_input_error(emotion, seconds):
    with pytest.raises(InputError):
        utter(0, emotion, seconds, MAN)


# ------------------------------------------------------------------------------------------- sound


def test_silence_is_silent_speech_is_not_and_nothing_clips(many):
    for made in many:
        silent = made.phonemes == 0
        inside = silent & np.roll(silent, 1) & np.roll(silent, -1)
        assert made.energy[inside].max(initial=0.0) < 0.01 * made.energy.max()
        assert silent[0] and silent[-1]
        vowels = spoken(made, *VOWELS)
        assert vowels.any() and made.energy[vowels].min() > 1e-3
        assert np.abs(made.audio.astype(int)).max() < 0.96 * 32768


def test_every_phoneme_is_said(many):
    said = np.unique(np.concatenate([made.phonemes for made in many]))
    assert {PHONEMES[i] for i in said} == set(PHONEMES)


def lpc_peaks(sound: np.ndarray) -> np.ndarray:
    """Frequencies of the spectral envelope's peaks below 4 kHz, by linear prediction."""
    sound = scipy.signal.lfilter([1.0, -0.97], [1.0], scipy.signal.decimate(sound, 2))
    sound = sound * np.hanning(len(sound))
    r = np.correlate(sound, sound, "full")[len(sound) - 1 :][:13]
    predictor = scipy.linalg.solve_toeplitz(r[:12], r[1:13])
    w, h = scipy.signal.freqz([1.0], np.concatenate([[1.0], -predictor]), 2048, fs=8000)
    return w[scipy.signal.find_peaks(np.abs(h))[0]]


# Peterson & Barney (1952), men.
@pytest.mark.parametrize(
    ("vowel", "f1", "f2"),
    [
        ("iy", 280, 2250),
        ("ih", 400, 1950),
        ("eh", 540, 1800),
        ("ae", 680, 1680),
        ("aa", 740, 1120),
        ("uw", 310, 880),
        ("er", 490, 1350),
    ],
)
@pytest.mark.parametrize("tract", [1.0, 1.15])
def test_vowels_have_their_formants(vowel, f1, f2, tract):
    phase = np.full(100, FIRST_PHASE[PHONEMES.index(vowel)])
    sound = synthesise(
        np.random.default_rng(0),
        phase,
        np.full(100, 100.0),
        np.ones(100),
        Prosody(),
        MAN._replace(tract=tract),
    )
    peaks = lpc_peaks(sound[2000:6000])
    for formant in (f1 * tract, f2 * tract):
        assert np.abs(peaks - formant).min() < 0.08 * formant + 15, (vowel, formant, peaks)


def test_the_pitch_curve_is_the_pitch_that_is_heard():
    for seed in range(4):
        made = utter(seed, "neutral", 3.0, Speaker.from_seed(seed))
        vowels = np.flatnonzero(spoken(made, *VOWELS) & (made.pitch > 0))
        errors = []
        for t in vowels:
            frame = made.audio[t * 640 : (t + 1) * 640].astype(float)
            period = SAMPLE_RATE / made.pitch[t]
            lags = np.arange(int(period * 0.75), int(period * 1.3) + 1)
            match = [
                frame[lag:]
                @ frame[:-lag]
                / np.linalg.norm(frame[lag:])
                / np.linalg.norm(frame[:-lag])
                for lag in lags
            ]
            errors.append(abs(lags[np.argmax(match)] / period - 1))
        assert np.median(errors) < 0.02


def test_stops_are_silent_before_they_burst():
    closures, vowels = [], []
    for seed in range(12):
        made = utter(seed, "neutral", 4.0, MAN)
        inner = made.audio.reshape(-1, SAMPLES_PER_FRAME)[:, 240:400] / 32768.0
        rms = np.sqrt(np.mean(inner**2, axis=1))
        closures += rms[spoken(made, "p")].tolist()
        vowels += rms[spoken(made, *VOWELS)].tolist()
    assert len(closures) > 20
    assert np.median(closures) < 0.01 * np.median(vowels)


def test_hisses_are_high_and_nasals_low():
    def centroid(*names):
        found = []
        for seed in range(8):
            made = utter(seed, "neutral", 4.0, MAN)
            frames = made.audio.reshape(-1, SAMPLES_PER_FRAME)[spoken(made, *names)]
            power = np.abs(np.fft.rfft(frames * np.hanning(640), axis=1)) ** 2
            hz = np.fft.rfftfreq(640, 1 / SAMPLE_RATE)
            found += (power @ hz / power.sum(axis=1)).tolist()
        return np.median(found)

    assert centroid("s") > 4500 > centroid("sh") > 2200
    assert centroid("m", "n") < 600


# ------------------------------------------------------------------------------------ articulation


def test_lips_close_for_p_b_m_and_open_for_vowels_on_the_face(many):
    face = load_face_basis()
    upper, lower = face.landmark_vertices[[62, 66]]
    columns = [face.names.index(mode) for mode in MODES]
    rest = face.mean[upper, 1] - face.mean[lower, 1]
    height = face.expression[upper, 1][columns] - face.expression[lower, 1][columns]
    for made in many:
        gap = rest + height @ np.stack([made.articulation[mode] for mode in MODES])  # cm
        assert gap[spoken(made, "p", "b", "m")].max(initial=-1) < 0.02
        assert gap.min() > -0.35
        assert gap.max() > 0.8


def test_each_sound_has_its_mouth(many):
    def mean(mode, *names):
        return np.concatenate(
            [made.articulation[mode][spoken(made, *names)] for made in many]
        ).mean()

    assert mean("jawOpen", "aa") > mean("jawOpen", "eh") > mean("jawOpen", "iy")
    assert mean("jawOpen", "aa") > 0.45 > 0.15 > mean("jawOpen", "p", "b", "m", "s", "z")
    assert mean("mouthPucker", "uw", "w") > 0.6 > 0.1 > mean("mouthPucker", "iy")
    assert mean("mouthFunnel", "sh", "ch") > 0.45
    assert mean("mouthStretch_L", "iy") > 0.35 > 0.15 > mean("mouthStretch_L", "uw")
    assert mean("mouthRollLower", "f", "v") > 0.6 > 0.1 > mean("mouthRollLower", "aa")
    assert mean("mouthPress_L", "p", "b", "m") > 0.4
    assert mean("jawOpen", "sil") < 0.08


def mel_context(made: Utterance) -> np.ndarray:
    """(T, 7 * 40): log-mel of the frame and three neighbours on either side."""
    mel = log_mel(to_float(made.audio))
    frames = len(made.pitch)
    at = np.linspace(0, mel.shape[1] - 1, frames).round().astype(int)
    mel = mel.reshape(40, 2, -1).mean(axis=1)[:, at].T
    padded = np.pad(mel, ((3, 3), (0, 0)), mode="edge")
    return np.concatenate([padded[k : k + frames] for k in range(7)], axis=1)


def test_the_jaw_can_be_heard_from_speakers_never_heard_before():
    train, held_out = clips(64), clips(20, first=1000)
    x = np.concatenate([mel_context(made) for made in train])
    y = np.concatenate([made.articulation["jawOpen"] for made in train])
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = np.c_[(x - mean) / scale, np.ones(len(x))]
    weights = np.linalg.solve(z.T @ z + 30.0 * np.eye(z.shape[1]), z.T @ y)
    test = np.concatenate([mel_context(made) for made in held_out])
    guess = np.c_[(test - mean) / scale, np.ones(len(test))] @ weights
    truth = np.concatenate([made.articulation["jawOpen"] for made in held_out])
    assert np.corrcoef(guess, truth)[0, 1] > 0.8


# --------------------------------------------------------------------------------------- emotion


@pytest.fixture(scope="module")
def by_emotion() -> dict[str, list[Utterance]]:
    return {
        emotion: [utter(seed, emotion, 4.0, Speaker.from_seed(seed)) for seed in range(12)]
        for emotion in EMOTIONS
    }


def test_emotions_are_ordered_in_pitch_range_level_and_rate_as_designed(by_emotion):
    def mean(statistic):
        return {emotion: np.mean([*map(statistic, made)]) for emotion, made in by_emotion.items()}

    pitch = mean(lambda made: semitones(made).mean())
    assert pitch["fear"] > pitch["happy"] > pitch["neutral"]
    assert pitch["angry"] > pitch["neutral"] > pitch["sad"] > pitch["disgusted"]
    assert pitch["surprised"] > pitch["neutral"] + 1.5
    spread = mean(lambda made: np.std(semitones(made)))
    assert min(spread["happy"], spread["surprised"]) > 1.5 * spread["neutral"]
    assert spread["sad"] < spread["neutral"]
    level = mean(lambda made: 20 * np.log10(np.sqrt(np.mean(made.energy[made.phonemes > 0] ** 2))))
    assert level["angry"] > level["happy"] > level["neutral"] > level["contempt"] > level["sad"]
    assert -24 < level["neutral"] < -18 and level["angry"] - level["sad"] > 8
    syllables = mean(lambda made: np.sum(np.diff(spoken(made, *VOWELS).astype(int)) == 1))
    assert syllables["fear"] > syllables["neutral"] > syllables["disgusted"]
    assert syllables["angry"] > syllables["neutral"] > syllables["sad"]


def prosodic_statistics(made: Utterance) -> np.ndarray:
    """What a listener can measure who does not know the speaker: nothing about absolute pitch."""
    audio = made.audio.reshape(-1, SAMPLES_PER_FRAME) / 32768.0
    voiced, pause = made.pitch > 0, made.energy < 0.01
    notes = semitones(made)
    steps = np.diff(notes)[np.diff(np.flatnonzero(voiced)) == 1]
    power = np.abs(np.fft.rfft(audio[voiced] * np.hanning(640), axis=1)) ** 2
    bands = np.log([power[:, a:b].sum() for a, b in ((2, 40), (40, 120), (120, 200), (200, 320))])
    periods = (SAMPLE_RATE / made.pitch[voiced]).round().astype(int)
    repeats = [
        [row[k * p :] @ row[: 640 - k * p] / (row @ row) for k in (1, 2) if k * p < 600]
        for row, p in zip(audio[voiced], periods, strict=True)
    ]
    return np.array(
        [
            20 * np.log10(made.energy[~pause].mean()),
            notes.std(),
            np.ptp(np.percentile(notes, [5, 95])),
            steps.mean(),
            np.abs(steps).mean(),
            np.abs(np.diff(steps)).mean(),
            np.percentile(steps, 95),
            np.percentile(steps, 5),
            pause.mean(),
            np.sum(np.diff(pause.astype(int)) == 1),
            *(bands[1:] - bands[0]),
            np.mean([row[0] for row in repeats]),
            np.mean([row[1] - row[0] for row in repeats if len(row) == 2]),
        ]
    )


def test_emotion_can_be_heard_from_speakers_never_heard_before():
    def corpus(first, count):
        seeds = range(first, first + count)
        made = [utter(s, e, 3.0, Speaker.from_seed(s)) for s in seeds for e in EMOTIONS]
        return np.stack([prosodic_statistics(m) for m in made]), np.tile(np.arange(8), count)

    (x, y), (test, truth) = corpus(0, 32), corpus(1000, 16)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    z, test = (x - mean) / scale, (test - mean) / scale
    # Linear discriminant analysis: one Gaussian an emotion, one covariance for all.
    centres = np.stack([z[y == k].mean(axis=0) for k in range(8)])
    inverse = np.linalg.inv(np.cov((z - centres[y]).T) + 0.01 * np.eye(z.shape[1]))
    away = test[:, None] - centres
    guess = np.einsum("nki,ij,nkj->nk", away, inverse, away).argmin(axis=1)
    assert np.mean(guess == truth) > 0.85
