"""Decoding to the project's clock, encoding in step and without leftovers, images of every kind."""

import contextlib
import resource
import signal
import struct
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from data_pipeline import video
from data_pipeline.audio import load_audio, open_at
from data_pipeline.errors import InputError
from data_pipeline.video import VideoWriter, iterate_frames, read_image, read_soundtrack, read_video


def grey(levels, height=32, width=48) -> np.ndarray:
    """One flat frame per level."""
    levels = np.asarray(levels, np.uint8)[:, None, None, None]
    return np.broadcast_to(levels, (len(levels), height, width, 3)).copy()


def levels_of(frames: np.ndarray) -> np.ndarray:
    return frames.mean(axis=(1, 2, 3))


def write_video(path, frames, times, time_base=Fraction(1, 1000), sound=None, sound_start=0.0):
    """A video with a timestamp (seconds) for each frame, and 16 kHz sound from `sound_start` on."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(1 / time_base))
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        video.options = {"crf": "10", "g": "12"}
        video.codec_context.time_base = time_base
        if sound is not None:
            audio = container.add_stream("aac", rate=16_000, layout="mono")
        for rgb, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = round(time / time_base), time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
            frame.sample_rate, frame.time_base = 16_000, Fraction(1, 16_000)
            frame.pts = round(sound_start * 16_000)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def test_frames_are_in_memory_once(monkeypatch):
    frames = lambda *_: (np.full((96, 96, 3), level, np.uint8) for level in range(60))
    monkeypatch.setattr(video, "iterate_frames", frames)
    monkeypatch.setattr(video, "read_soundtrack", lambda *_: None)
    tracemalloc.start()
    found = video.read_video("any").frames
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found, list(frames()))
    assert peak < 1.7 * found.nbytes


@pytest.mark.parametrize("rate", [10, Fraction(24000, 1001), 25, 30, 50, 60])
def test_any_rate_becomes_25_frames_a_second(tmp_path, rate):
    seconds = 2
    levels = np.linspace(20, 235, round(seconds * rate))
    write_video(
        tmp_path / "a.mp4", grey(levels), np.arange(len(levels)) / float(rate), 1 / Fraction(rate)
    )
    video = read_video(tmp_path / "a.mp4")
    assert video.frames.dtype == np.uint8 and video.audio is None
    assert len(video.frames) == 50
    # Each frame is the source's nearest in time: half a source frame off at most.
    nearest = np.clip(np.round(np.arange(50) / 25 * float(rate)), 0, len(levels) - 1).astype(int)
    step = levels[1] - levels[0]
    assert np.abs(levels_of(video.frames) - levels[nearest]).max() < 1.02 * step + 2


def test_uneven_timestamps_are_honoured(tmp_path):
    # A telephone that paused: nothing between 0.2 and 1.0 s.
    write_video(tmp_path / "a.mp4", grey([50, 100, 150, 200]), [0.0, 0.2, 1.0, 1.12])
    frames = levels_of(read_video(tmp_path / "a.mp4").frames)
    assert len(frames) >= 29
    for time, level in ((0, 50), (0.08, 50), (0.12, 100), (0.56, 100), (0.64, 150), (1.12, 200)):
        assert abs(frames[round(time * 25)] - level) < 4, time


@pytest.mark.parametrize("reordered", [0, 3])
def test_the_last_frame_is_shown_as_long_as_it_says(tmp_path, reordered):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 32, 48, "yuv420p"
        video.options = {"x264-params": f"bframes={reordered}:b-adapt=0:scenecut=0", "crf": "10"}
        packets = []
        for rgb in grey(20 + np.arange(48)):
            packets += video.encode(av.VideoFrame.from_ndarray(rgb, "rgb24"))
        packets += video.encode(None)
        assert packets[-1].pts == 47 - bool(reordered)
        packets[-1].duration = 26
        container.mux(packets)
    frames = levels_of(read_video(tmp_path / "a.mp4").frames)
    assert len(frames) == 73 - bool(reordered)  # By one frame earlier, it is the one before.
    assert np.abs(frames[48:] - 67).max() < 3


def test_sound_starts_with_the_picture(tmp_path):
    click = np.zeros(16_000, np.float32)
    click[4000:4040] = 0.9
    # The sound's first sample belongs to 0.4 s after the first frame: the click to 0.65 s.
    write_video(
        tmp_path / "a.mp4", grey([90] * 50), np.arange(50) / 25, Fraction(1, 25), click, 0.4
    )
    video = read_video(tmp_path / "a.mp4")
    assert len(video.audio) == 50 * 640
    assert abs(np.abs(video.audio).argmax() / 16_000 - 0.6513) < 0.002


def test_max_seconds_takes_the_beginning(tmp_path):
    tone = np.sin(np.arange(32_000) / 7).astype(np.float32) / 2
    with VideoWriter(tmp_path / "a.mp4", (32, 48), tone) as writer:
        writer.write(grey(np.linspace(20, 235, 50)))
    whole = read_video(tmp_path / "a.mp4")
    for seconds, count in ((0.6, 15), (0.01, 1)):
        part = read_video(tmp_path / "a.mp4", seconds)
        np.testing.assert_array_equal(part.frames, whole.frames[:count])
        np.testing.assert_allclose(part.audio, whole.audio[: count * 640], atol=1e-6)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_start_is_jumped_to_to_the_frame_and_the_sample(tmp_path, suffix):
    noise = np.random.default_rng(0).normal(0, 0.1, 6 * 16_000).astype(np.float32)
    times = 0.48 + np.arange(150) / 25
    path = write_video(
        tmp_path / f"a.{suffix}", grey(20 + np.arange(150)), times, Fraction(1, 25), noise, 0.48
    )
    whole = read_video(path)
    for start in (0.4, 2.0, 4.6):
        frames = np.stack(list(iterate_frames(path, 1.0, start)))
        at = round(start * 25)
        np.testing.assert_array_equal(frames, whole.frames[at : at + 25])
        sound = read_soundtrack(path, 25, 1.0, start)
        # Containers round times to a millisecond, which is 16 samples.
        error = [
            np.abs(sound[640:-640] - whole.audio[at * 640 + shift :][640 : len(sound) - 640]).max()
            for shift in range(-16, 17)
        ]
        assert min(error) < 1e-3
    with open_at(path, "video", 5.0) as (_, _, decoded):
        assert 3 < next(decoded).time < 5
    with pytest.raises(InputError, match="ends at 6.00 s, before 7.00 s"):
        list(iterate_frames(path, 1.0, 7.0))


@pytest.mark.parametrize("right", [1, -1])
@pytest.mark.parametrize("down", [1, -1])
@pytest.mark.parametrize("swapped", [False, True])
def test_turned_and_mirrored_tracks_are_shown_upright(tmp_path, right, down, swapped):
    frames = grey([40] * 5, 32, 64)
    frames[:, :16, :32] = 220  # Bright upper left corner.
    frames[:, :16, 32:] = 130
    write_video(tmp_path / "a.mp4", frames, np.arange(5) / 25, Fraction(1, 25))
    # The matrix in the header of the track, as telephones write it.
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.find(b"tkhd") + 4 + 40
    matrix = [0, down, 0, right, 0] if swapped else [right, 0, 0, 0, down]
    data[at : at + 20] = struct.pack(">5i", *(entry << 16 for entry in matrix))
    (tmp_path / "turned.mp4").write_bytes(data)
    upright = next(iterate_frames(tmp_path / "turned.mp4"))
    expected = frames[0].swapaxes(0, 1) if swapped else frames[0]
    expected = expected[::down, ::right]
    assert upright.shape == expected.shape
    assert np.abs(upright - expected.astype(int)).mean() < 4


def test_a_turn_is_known_beside_side_data_that_pyav_has_no_name_for(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey([40])[0]).save(tmp_path / "a.jpg", exif=exif)
    assert next(iterate_frames(tmp_path / "a.jpg")).shape == (48, 32, 3)


def test_flash_and_click_come_back_together(tmp_path):
    frames = grey(np.full(100, 40))
    sound = np.zeros(64_000, np.float32)
    marks = (3, 20, 50, 97)
    for mark in marks:
        frames[mark] = 230
        sound[mark * 640 : mark * 640 + 32] = 0.9
    with VideoWriter(tmp_path / "a.mp4", (32, 48), sound) as writer:
        for start in range(0, 100, 7):
            writer.write(frames[start : start + 7])
    video = read_video(tmp_path / "a.mp4")
    assert len(video.frames) == 100
    assert np.flatnonzero(levels_of(video.frames) > 130).tolist() == list(marks)
    for mark in marks:
        near = video.audio[mark * 640 - 640 : mark * 640 + 640]
        shift = np.argmax(np.correlate(near, np.ones(32))) - 640
        assert abs(shift) <= 8, f"{shift} samples"  # Half a millisecond.


def flashing(path, seconds: int, flash: float):
    """A video whose only bright frame has the only click of its sound."""
    frames, sound = grey(np.full(25 * seconds, 40)), np.zeros(16_000 * seconds, np.float32)
    frames[round(25 * flash)] = 230
    sound[round(16_000 * flash) :][:640] = np.random.default_rng(0).uniform(-0.9, 0.9, 640)
    times = np.arange(len(frames)) / 25
    return write_video(path, frames, times, Fraction(1, 25), sound)


def clicks_of(sound: np.ndarray) -> list[float]:
    """The beginnings of clicks in seconds."""
    loud = np.flatnonzero(np.abs(sound) > 0.3)
    return (loud[np.diff(loud, prepend=-16_000) > 8000] / 16_000).tolist()


def test_parts_that_were_joined_end_to_end_stay_in_step_and_whole(tmp_path):
    parts = [(2, 1.0), (4, 3.0), (2, 0.6)]
    files = [flashing(tmp_path / f"{i}.ts", *part) for i, part in enumerate(parts)]
    silent = write_video(tmp_path / "silent.ts", grey(np.full(75, 40)), np.arange(75) / 25)
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(file.read_bytes() for file in (*files[:2], silent, files[2])))
    video = read_video(path)
    flashes = np.flatnonzero(levels_of(video.frames) > 130)
    # At each seam one stream waits for the other, as AAC's last block is longer than the sound.
    np.testing.assert_allclose(flashes / 25, [1.0, 5.0, 9.6], atol=0.5)
    assert len(video.frames) == pytest.approx(11 * 25, abs=12)
    np.testing.assert_allclose(clicks_of(video.audio), flashes / 25, atol=0.03)
    # A time on the file's clock is there four times: a start is one of the whole.
    at = flashes[1] - 20
    np.testing.assert_array_equal(
        np.stack(list(iterate_frames(path, 1.0, at / 25))), video.frames[at : at + 25]
    )
    assert clicks_of(read_soundtrack(path, 25, 1.0, at / 25)) == pytest.approx([0.8], abs=0.03)


def test_the_whole_voice_comes_back(tmp_path):
    t = np.arange(64_000) / 16_000
    tone = (np.sin(2 * np.pi * (150 * t + 300 * t**2)) / 3).astype(np.float32)
    with VideoWriter(tmp_path / "a.mp4", 32, tone) as writer:
        writer.write(grey([100] * 100, 32, 32))
    back = load_audio(tmp_path / "a.mp4")[: len(tone)]
    assert len(back) == len(tone)
    error = back[640:-640] - tone[640:-640]
    assert np.sqrt(np.mean(error**2)) < 0.02


def test_sound_is_cut_where_the_frames_end(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 32, np.full(160_000, 0.1, np.float32)) as writer:
        writer.write(grey([100] * 25, 32, 32))
    assert abs(len(load_audio(tmp_path / "a.mp4")) / 16_000 - 1.0) < 0.03


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (1, 1), (16, 17)])
def test_colours_and_sizes_survive(tmp_path, size):
    height, width = size
    colour = np.array([200, 60, 90], np.uint8)
    frames = np.broadcast_to(colour, (10, height, width, 3))
    with VideoWriter(tmp_path / "a.mp4", size, None, crf=1) as writer:
        writer.write(frames)
    back = read_video(tmp_path / "a.mp4").frames
    assert back.shape == (10, height + height % 2, width + width % 2, 3)
    assert np.abs(back.mean(axis=(0, 1, 2)) - colour).max() < 2


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv422p10le", "yuv444p"])
def test_deep_colours_and_odd_sizes_come_as_eight_bits(tmp_path, pixels):
    height, width = (47, 33) if pixels == "yuv444p" else (32, 48)
    frames = np.empty((10, height, width, 3), np.uint8)
    frames[:] = (200, 60, 90)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = height, width, pixels
        for rgb in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        container.mux(video.encode(None))
    back = read_video(tmp_path / "a.mkv").frames
    assert back.shape == frames.shape and back.dtype == np.uint8
    assert np.abs(back.mean(axis=(0, 1, 2)) - frames[0, 0, 0]).max() < 5


def test_players_can_start_at_once_and_know_the_colours(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 32, np.zeros(16_000, np.float32)) as writer:
        writer.write(grey([100] * 25, 32, 32))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.codec_context.pix_fmt == "yuv420p"
        assert video.codec_context.colorspace == 1 and video.codec_context.color_range == 1
        assert video.average_rate == 25
        assert audio.codec_context.name == "aac"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_an_interrupted_file(tmp_path, error):
    with pytest.raises(error), VideoWriter(tmp_path / "a.mp4", 32, None) as writer:
        writer.write(grey([100] * 30, 32, 32))
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_end_is_heard_where_the_resampler_would_drop_it(tmp_path, number):
    class Deaf:
        def resample(self, frame):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(number)
            return []

    before = signal.signal(number, signal.default_int_handler)
    waveform = np.zeros(640, np.float32)
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", 32, waveform) as writer:
        writer._resampler = Deaf()
        writer.write(grey([100], 32, 32))
    assert list(tmp_path.iterdir()) == []
    assert signal.signal(number, before) is signal.default_int_handler


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    (tmp_path / "a.mp4").write_text("old")
    with pytest.raises(ValueError, match="shape"), VideoWriter(tmp_path / "a.mp4", 32, None) as out:
        out.write(grey([100], 16, 16))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_text() == "old"


def test_places_that_cannot_be_written_to_are_sentences(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name in ("missing/a.mp4", "file/a.mp4", "folder"):
        writer = VideoWriter(tmp_path / name, 32, None)
        with pytest.raises(InputError, match="cannot write"):
            writer.__enter__()  # Not when all is written.
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_what_the_encoder_refuses_is_a_sentence_too(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise av.error.ProtocolNotFoundError(1, "Protocol not found")

    monkeypatch.setattr(av, "open", fail)
    writer = VideoWriter(tmp_path / "a.mp4", 32, None)
    with pytest.raises(InputError, match=r"cannot write .*a.mp4 \(Protocol not found\)"):
        writer.__enter__()
    assert list(tmp_path.iterdir()) == []


def test_names_may_have_a_colon_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with VideoWriter("10:30.mp4", 32, np.zeros(6400, np.float32)) as writer:
        writer.write(grey([100] * 10, 32, 32))
    assert len(read_video("10:30.mp4").frames) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["10:30.mp4"]


def test_pictures_that_change_their_size_on_the_way_are_scaled(tmp_path):
    sizes = ((32, 48), (64, 96), (36, 20))
    streams = []
    for number, size in enumerate(sizes):
        path = tmp_path / f"{number}.ts"
        write_video(path, grey([50 + 60 * number] * 25, *size), number + np.arange(25) / 25)
        streams.append(path.read_bytes())
    (tmp_path / "a.ts").write_bytes(b"".join(streams))
    frames = read_video(tmp_path / "a.ts").frames
    assert frames.shape[1:] == (32, 48, 3) and len(frames) == pytest.approx(75, abs=2)
    np.testing.assert_allclose(levels_of(frames[[10, 35, 60]]), [50, 110, 170], atol=3)


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    code = """
import resource, sys
import numpy as np
from data_pipeline.errors import InputError
from data_pipeline.video import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
noise = np.random.default_rng(0).integers(0, 255, (10, 128, 128, 3), np.uint8)
try:
    with VideoWriter(sys.argv[1], 128, np.zeros(640 * 100, np.float32), crf=1) as writer:
        for _ in range(int(sys.argv[2])):
            writer.write(noise)
except InputError as error:
    print(error)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)
    for chunks in ("1", "10"):  # Refused at the end, and on the way.
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a.mp4"), chunks],
            capture_output=True,
            text=True,
        )
        assert done.stdout.startswith("cannot write"), done.stdout + done.stderr
        assert list(tmp_path.iterdir()) == []


def test_bad_videos_are_sentences(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (100, 32, 32, 3), np.uint8)
    with VideoWriter(tmp_path / "a.mp4", 32, np.zeros(64_000, np.float32)) as writer:
        writer.write(noise)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.mp4").write_text("nothing")
    with av.open(str(tmp_path / "sound.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name, what in {
        "missing.mp4": "does not exist",
        "text.mp4": "cannot be decoded",
        "cut.mp4": "truncated",
        "sound.m4a": "no video stream",
    }.items():
        with pytest.raises(InputError, match=what):
            read_video(tmp_path / name)


def test_images_of_every_kind(tmp_path):
    ramp = np.tile(np.arange(0, 256, 4, np.uint8), (32, 1))
    colour = np.stack([ramp, 255 - ramp, np.full_like(ramp, 77)], -1)

    def back(image, name, **options):
        image.save(tmp_path / name, **options)
        return read_image(tmp_path / name).astype(int)

    assert np.array_equal(back(Image.fromarray(colour), "a.png"), colour)
    assert np.abs(back(Image.fromarray(colour), "a.jpg", quality=100) - colour).max() < 8
    assert np.array_equal(back(Image.fromarray(ramp), "l.png")[..., 1], ramp)
    sixteen = Image.fromarray(ramp.astype(np.uint16) * 257)
    assert np.abs(back(sixteen, "16.png")[..., 0] - ramp).max() <= 1
    palette = back(Image.fromarray(colour).quantize(64), "p.png")
    assert palette.shape == colour.shape and np.abs(palette - colour).mean() < 6
    clear = np.dstack([colour, np.zeros_like(ramp)])
    assert (back(Image.fromarray(clear), "rgba.png") == 128).all()
    assert back(Image.fromarray(colour).convert("CMYK"), "c.jpg").shape == colour.shape
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (10, 200)]
    assert (back(frames[0], "a.gif", save_all=True, append_images=frames[1:]) == 10).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_and_mirrored_as_their_exif_says(tmp_path, orientation):
    colour = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(colour).save(tmp_path / "a.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(upright))


def exif_block(*fields: bytes) -> bytes:
    """Big-endian EXIF with fields of twelve bytes."""
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(fields)) + b"".join(fields) + bytes(4)


def test_an_odd_field_or_damaged_exif_spoils_no_photograph(tmp_path):
    turned = struct.pack(">HHIHH", 0x112, 3, 1, 6, 0)
    odd = struct.pack(">HHI4s", 0x128, 2, 2, b"2")  # The unit of the resolution, as a text.
    for exif, shape in {
        exif_block(turned, odd): (48, 32, 3),
        b"Exif\0\0nothing": (32, 48, 3),
    }.items():
        Image.fromarray(grey([90])[0]).save(tmp_path / "a.jpg", exif=exif)
        assert read_image(tmp_path / "a.jpg").shape == shape


def test_bad_images_are_sentences(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("nothing")
    (tmp_path / "empty.png").touch()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.dds")
    data = (tmp_path / "a.dds").read_bytes()
    (tmp_path / "odd.dds").write_bytes(data[:80] + bytes(4) + data[84:])  # In no known format.
    for name in ("missing.png", "cut.png", "text.png", "empty.png", "odd.dds", "", "x" * 300):
        with pytest.raises(InputError, match=str(tmp_path)):
            read_image(tmp_path / name)
