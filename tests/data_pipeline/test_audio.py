"""The clock, any file to 16 kHz, and the features against their references."""

import resource
import tracemalloc
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipeline import audio
from data_pipeline.errors import InputError, MissingError

GOLDEN = Path(__file__).parents[1] / "golden"


def chirp(seconds: float, rate: int) -> np.ndarray:
    """200 to 2000 Hz at a third of full scale."""
    t = np.arange(round(seconds * rate)) / rate
    return (np.sin(2 * np.pi * (200 * t + 900 / seconds * t**2)) / 3).astype(np.float32)


def save(
    path: Path,
    waveform: np.ndarray,
    rate: int,
    codec: str,
    layout: str = "mono",
    start: float = 0.0,
) -> Path:
    """Writes (n,) or planar (channels, n) samples, the first one at `start` seconds."""
    planes = np.atleast_2d(waveform)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes), "fltp", layout)
        frame.sample_rate, frame.pts = rate, round(start * rate)
        size = stream.codec_context.frame_size or None
        form = stream.codec_context.format.name
        resampler = av.AudioResampler(form, layout, rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("threads", [1, 3])
def test_decoders_have_the_threads_they_are_given(threads, tmp_path, monkeypatch):
    path = save(tmp_path / "a.flac", chirp(0.1, 16_000), 16_000, "flac")
    monkeypatch.setattr(audio, "_decoder_threads", 0)  # which is put back
    audio.limit_decoders(threads)
    with audio.open_at(path, "audio") as (_, stream, _):
        assert stream.codec_context.thread_count == threads


@pytest.mark.parametrize(
    ("name", "codec", "rate", "tolerance"),
    [
        ("a.wav", "pcm_s16le", 16_000, 1e-4),
        ("a.wav", "pcm_s24le", 48_000, 0.01),
        ("a.wav", "pcm_f32le", 44_100, 0.01),
        ("a.wav", "pcm_u8", 8_000, 0.02),
        ("a.flac", "flac", 22_050, 0.01),
        ("a.mp3", "libmp3lame", 44_100, 0.03),
        ("a.m4a", "aac", 44_100, 0.03),
        ("a.ogg", "libopus", 48_000, 0.05),
        ("a.mka", "flac", 96_000, 0.01),
    ],
)
def test_any_file_becomes_the_same_16_khz(tmp_path, name, codec, rate, tolerance):
    loaded = audio.load_audio(save(tmp_path / name, chirp(1.0, rate), rate, codec))
    assert loaded.dtype == np.float32
    assert abs(len(loaded) - 16_000) < 1200  # Codecs may leave their last block's padding in.
    # Within the codec's error of the truth, sample by sample: so nothing is shifted either.
    middle = slice(1600, 14_400)
    difference = loaded[middle] - chirp(1.0, 16_000)[middle]
    assert np.sqrt(np.mean(difference**2)) < tolerance


def test_channels_are_averaged(tmp_path):
    tone = chirp(0.5, 16_000)
    path = save(tmp_path / "a.wav", np.stack([tone, -tone]), 16_000, "pcm_f32le", "stereo")
    assert np.abs(audio.load_audio(path)).max() < 1e-6
    path = save(tmp_path / "b.wav", np.stack([tone, tone]), 16_000, "pcm_f32le", "stereo")
    np.testing.assert_allclose(audio.load_audio(path), tone, atol=1e-6)


@pytest.mark.parametrize("channels", [3, 6, 8, 9])
def test_many_channels_are_no_louder_than_their_loudest(tmp_path, channels):
    tone = chirp(0.5, 16_000)
    for name, planes in {
        "same.wav": np.stack([tone] * channels),
        "one.wav": np.stack([*[0 * tone] * (channels - 1), channels * tone]) / 3,
    }.items():
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setparams((channels, 2, 16_000, 0, "NONE", ""))
            file.writeframes(audio.to_int16(planes.T.ravel()).tobytes())
        expected = audio.to_float(audio.to_int16(planes)).mean(0)
        np.testing.assert_allclose(audio.load_audio(tmp_path / name), expected, atol=1e-4)


def test_eight_kilohertz_stereo_is_averaged_too(tmp_path):
    tone = chirp(1.0, 8000)
    path = save(tmp_path / "a.wav", np.stack([tone, tone / 2]), 8000, "pcm_s16le", "stereo")
    loaded = audio.load_audio(path)
    assert len(loaded) == 16_000
    error = (loaded - 0.75 * chirp(1.0, 16_000))[1600:-1600]
    assert np.sqrt(np.mean(error**2)) < 0.02


def clicks(seconds: float, *moments: float, rate: int = 48_000) -> np.ndarray:
    """Silence with 10 ms of noise at each moment."""
    sound = np.zeros(round(seconds * rate), np.float32)
    for moment in moments:
        noise = np.random.default_rng(0).uniform(-0.8, 0.8, rate // 100)
        sound[round(moment * rate) :][: rate // 100] = noise
    return sound


def heard(waveform: np.ndarray) -> list[float]:
    """The beginnings of clicks in seconds."""
    loud = np.flatnonzero(np.abs(waveform) > 0.25)
    return (loud[np.diff(loud, prepend=-16_000) > 8000] / 16_000).tolist()


def remux(source: Path, target: Path, change) -> Path:
    """Copies the packets that `change` returns, given each one and its time."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(audio=0):
            if packet.dts is not None and change(packet, float(packet.pts * packet.time_base)):
                packet.stream = stream
                new.mux(packet)
    return target


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mkv", "aac"), ("ts", "aac"), ("webm", "libopus"), ("mka", "flac")]
)
def test_what_follows_lost_packets_is_heard_at_its_time(tmp_path, suffix, codec):
    whole = save(tmp_path / f"whole.{suffix}", clicks(10, 2, 8), 48_000, codec)
    _, first = audio.decode_audio(whole)
    path = remux(whole, tmp_path / f"a.{suffix}", lambda packet, time: not 4 <= time - first < 5)
    expected = heard(audio.load_audio(whole))
    assert expected == pytest.approx([2, 8], abs=0.03)
    assert heard(audio.load_audio(path)) == pytest.approx(expected, abs=0.003)
    part, start = audio.decode_audio(path, 3.0 + first, 9.0 + first)
    assert start - first + heard(part)[-1] == pytest.approx(expected[1], abs=0.003)
    assert len(part) < 9.5 * 16_000


def test_sound_that_comes_twice_is_cut_and_rates_may_change(tmp_path):
    first = save(tmp_path / "1.ts", clicks(6, 2), 48_000, "aac")
    second = save(tmp_path / "2.ts", clicks(5, 3, rate=24_000), 24_000, "aac", start=5.0)
    path = tmp_path / "a.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    whole, start = audio.decode_audio(path)
    assert heard(whole) == pytest.approx([2, 8], abs=0.07)  # AAC's priming is in it.
    part, _ = audio.decode_audio(path, 0, start + 9)
    assert heard(part) == heard(whole) and len(part) < 9.3 * 16_000


def test_files_that_were_joined_end_to_end_are_heard_to_the_end(tmp_path):
    once = save(tmp_path / "1.ogg", clicks(3, 1), 48_000, "libopus").read_bytes()
    (tmp_path / "a.ogg").write_bytes(once * 2)
    assert heard(audio.load_audio(tmp_path / "a.ogg")) == pytest.approx([1, 4], abs=0.02)


def paused(path: Path, seconds: float) -> Path:
    """A sound with a pause after about one second; clicks at 0.5 s, and 1.5 s plus the pause."""

    def shift(packet, time):
        if time > 1:
            packet.pts = packet.dts = packet.pts + round(seconds / packet.time_base)
        return True

    whole = save(path.with_name("whole.mka"), clicks(2, 0.5, 1.5, rate=8000), 8000, "flac")
    return remux(whole, path, shift)


def test_a_time_stamp_of_next_year_is_refused(tmp_path):
    with pytest.raises(InputError, match="no sound for 10000000 s from 1.* on: its time stamps"):
        audio.load_audio(paused(tmp_path / "a.mka", 1e7))


def test_nearly_an_hour_of_pause_is_silence(tmp_path):
    waveform = audio.load_audio(paused(tmp_path / "a.mka", 3500))
    assert heard(waveform[-32_000:])[-1] == pytest.approx(1.5, abs=0.002)
    assert len(waveform) == pytest.approx(3502 * 16_000, abs=32)
    tracemalloc.start()
    assert not audio.is_silent(waveform)
    samples = audio.to_int16(waveform)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.7 * waveform.nbytes
    np.testing.assert_array_equal(samples[-32_000:], audio.to_int16(waveform[-32_000:]))


def test_what_the_system_refuses_is_no_fault_of_the_file(tmp_path, monkeypatch):
    path = save(tmp_path / "a.wav", chirp(0.5, 16_000), 16_000, "pcm_s16le")
    few, many = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, many))
        with pytest.raises(MissingError, match="cannot be read .Too many open files"):
            audio.load_audio(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, many))

    def fail_with(kind, *arguments):
        monkeypatch.setattr(av, "open", lambda *_, **__: (_ for _ in ()).throw(kind(*arguments)))

    # FFmpeg answers damaged headers with these, however well they can be read.
    for error in (
        (av.error.PermissionError, 1, "Operation not permitted"),
        (av.error.MemoryError, 12, "Cannot allocate memory"),
    ):
        fail_with(*error)
        with pytest.raises(InputError, match="cannot be decoded") as caught:
            audio.load_audio(path)
        assert not isinstance(caught.value, MissingError)

    def find_none(*_):
        raise MemoryError

    monkeypatch.setattr(np, "empty", find_none)
    with pytest.raises(MemoryError):
        audio.load_audio(path)


def test_a_stream_that_turns_up_late_does_not_stop_the_reader(tmp_path):
    def stumble(packets):
        yield from packets
        raise IndexError("tuple index out of range")  # What PyAV says to its flush.

    path = save(tmp_path / "a.wav", chirp(0.5, 16_000), 16_000, "pcm_s16le")
    with av.open(str(path)) as container:
        (stream,) = container.streams
        frames = list(audio.decode_frames(stumble(container.demux(stream)), stream))
    assert sum(frame.samples for frame in frames) == 8000


def test_bad_files_are_sentences(tmp_path):
    good = save(tmp_path / "a.m4a", chirp(2.0, 16_000), 16_000, "aac").read_bytes()
    (tmp_path / "cut.m4a").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.wav").write_text("not a sound at all")
    (tmp_path / "zero.wav").touch()
    with wave.open(str(tmp_path / "none.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
    save(tmp_path / "nan.wav", np.full(1600, np.nan, np.float32), 16_000, "pcm_f32le")
    save(tmp_path / "loud.wav", np.full(1600, -7000, np.float32), 16_000, "pcm_f32le")
    for name, what in {
        "missing.wav": "does not exist",
        "x" * 300: "cannot be read .File name too long",
        "": "is not a file",
        "zero.wav": "is empty",
        "text.wav": "cannot be decoded",
        "cut.m4a": "truncated",
        "none.wav": "without a single sample",
        "nan.wav": "not numbers",
        "loud.wav": "up to 7000, where full scale is 1: normalise it",
    }.items():
        with pytest.raises(InputError, match=what) as caught:
            audio.load_audio(tmp_path / name)
        assert str(tmp_path) in str(caught.value)


def test_a_pipe_s_wav_of_unknown_length_is_whole(tmp_path):
    wav = bytearray(save(tmp_path / "a.wav", chirp(1.0, 16_000), 16_000, "pcm_s16le").read_bytes())
    at = wav.find(b"data") + 4
    wav[4:8] = wav[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "piped.wav").write_bytes(wav)
    assert len(audio.load_audio(tmp_path / "piped.wav")) == 16_000


def test_a_damaged_middle_does_not_stop_the_reader(tmp_path):
    mp3 = bytearray(save(tmp_path / "a.mp3", chirp(2.0, 16_000), 16_000, "libmp3lame").read_bytes())
    mp3[len(mp3) // 2 : len(mp3) // 2 + 400] = bytes(400)
    (tmp_path / "damaged.mp3").write_bytes(mp3)
    assert len(audio.load_audio(tmp_path / "damaged.mp3")) > 1.5 * 16_000


def test_mfcc_equals_the_reference():
    golden = np.load(GOLDEN / "mfcc.npz")
    np.testing.assert_allclose(audio.mfcc(golden["sig"]), golden["mfcc"].T, atol=1e-9)


@pytest.mark.parametrize("frame", [0, 1, 7, 19])
def test_an_mfcc_window_is_a_part_of_the_clips(frame):
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 25 * 640).astype(np.float32)
    whole = audio.mfcc(audio.to_int16(waveform))
    expected = whole[:, 4 * frame : 4 * frame + 20]
    np.testing.assert_allclose(audio.mfcc_window(waveform, frame), expected, rtol=1e-5, atol=1e-5)
    assert np.isfinite(audio.mfcc_window(waveform, 23)).all()  # silence follows the clip


def test_mfcc_of_silence_and_of_less_than_a_window_is_finite():
    assert np.isfinite(audio.mfcc(np.zeros(1000, np.int16))).all()
    assert audio.mfcc(np.ones(10, np.int16)).shape == (13, 1)


def test_log_mel_equals_librosa():
    librosa = pytest.importorskip("librosa")
    waveform = np.random.default_rng(0).normal(0, 0.1, 12_345).astype(np.float32)
    waveform[:4000] *= 1e-4
    emphasised = np.append(waveform[0], waveform[1:] - 0.97 * waveform[:-1])
    spectrum = np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, pad_mode="reflect"))
    filters = librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    decibels = 20 * np.log10(np.maximum(1e-5, filters @ spectrum)) - 20
    expected = np.clip(8 * (decibels + 100) / 100 - 4, -4, 4)
    mel = audio.log_mel(waveform)
    assert mel.dtype == np.float32 and mel.shape == (80, 1 + 12_345 // 200)
    np.testing.assert_allclose(mel, expected, atol=5e-5)


@pytest.mark.parametrize(
    "fft, low, high",
    [(800, 55, 7600), (400, 0, 8000), (512, 50, 8000)],
    ids=["sync expert", "Whisper", "MelEncoder"],
)
def test_mel_filters_equal_librosas(fft, low, high):
    filters = pytest.importorskip("librosa.filters")
    expected = filters.mel(sr=16_000, n_fft=fft, n_mels=80, fmin=low, fmax=high)
    found = audio.mel_filters(80, fft, low, high)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=1e-9)


def test_mel_windows_are_columns_of_the_whole_mel_at_every_frame():
    waveform = np.random.default_rng(1).normal(0, 0.1, 640 * 20).astype(np.float32)
    whole = audio.log_mel(waveform)
    for frame in range(16):
        first = int(80 * frame / 25)
        np.testing.assert_array_equal(
            audio.mel_window(waveform, frame), whole[:, first : first + 16]
        )


def test_a_long_mel_is_made_in_pieces_without_a_seam(monkeypatch):
    waveform = np.random.default_rng(3).normal(0, 0.1, 200 * 5000).astype(np.float32)
    tracemalloc.start()
    whole = audio.log_mel(waveform)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # 45 MB at once.
    monkeypatch.setattr(audio, "_MEL_PIECE", 10_000)
    np.testing.assert_allclose(audio.log_mel(waveform), whole, atol=1e-5)


def test_window_pads_with_zeros_on_both_sides():
    samples = np.arange(1, 6, dtype=np.int16)
    assert audio.window(samples, -2, 4).tolist() == [0, 0, 1, 2]
    assert audio.window(samples, 3, 4).tolist() == [4, 5, 0, 0]
    assert audio.window(samples, -2, 9).tolist() == [0, 0, 1, 2, 3, 4, 5, 0, 0]
    assert audio.window(samples, 9, 2).tolist() == audio.window(samples, -9, 2).tolist() == [0, 0]
    assert audio.window(samples, 1, 2).dtype == np.int16


def test_silence_is_below_minus_60_decibels_everywhere():
    assert audio.is_silent(np.zeros(0, np.float32))
    noise = np.random.default_rng(2).normal(0, 1, 16_000).astype(np.float32)
    assert audio.is_silent(noise * 5e-4)
    assert not audio.is_silent(noise * 2e-3)
    assert audio.is_silent(noise[:1_000] * 5e-4 + np.float32(0.1)), "nor is an offset a sound"
    word = np.zeros(160_000, np.float32)
    word[70_000:71_000] = chirp(1000 / 16_000, 16_000)
    assert not audio.is_silent(word)


def test_int16_round_trip_clips():
    values = np.array([-2, -1, -0.5, 0, 0.5, 0.99999, 2], np.float32)
    samples = audio.to_int16(values)
    assert samples.tolist() == [-32768, -32768, -16384, 0, 16384, 32767, 32767]
    np.testing.assert_array_equal(audio.to_int16(audio.to_float(samples)), samples)
