"""Real containers, damaged in every way: each becomes clips or one sentence, nothing else happens.

The pictures and the voice are the synthetic world's; the landmarker is one that sees a face in
every picture, so that nothing but the file decides. The seed is fixed.
"""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipeline import clips
from data_pipeline.datasets import folder
from data_pipeline.prepare import prepare
from data_pipeline.synthetic import synthesize_clip
from data_pipeline.verify import verify
from tests.data_pipeline.faces import manifest_of

SIZE, FRAMES = 64, 32
MILLISECONDS = Fraction(1, 1000)
RNG = np.random.default_rng(20)


TAKEN = (
    *("good.mp4", "good.webm", "good.mkv", "a mkv in truth.avi", "rotated.mp4", "uneven.mp4"),
    *("odd.mkv", "ten bits.mkv", "grey.mkv", "telephone.mov", "surround.mkv"),
)
NOT_TAKEN = (
    *("empty.mp4", "text 語.mov", "noise.ts", "voice alone.mp4", "silent film.mp4"),
    *("one frame.mp4", "huge jump.mkv", "late start.mkv"),
)


class SeesAFace:
    """Stands in for the landmarker: 68 points in the middle of any picture."""

    def detect(self, image: np.ndarray, near=None, closely=True) -> list[np.ndarray]:
        height, width = image.shape[:2]
        side = min(height, width) * np.linspace(-0.25, 0.25, 68)
        return [np.float32(np.stack([side + width / 2, side[::-1] + height / 2], 1))]


def encode(
    path: Path,
    clip,
    video: str | None = "libx264",
    audio: str | None = "aac",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (SIZE, SIZE),
    rate: int = 48_000,
    layout: str = "mono",
    times: np.ndarray | None = None,
    frames: int = FRAMES,
) -> Path:
    """Writes the clip with PyAV; width and height in `size`, times of the frames in seconds."""
    with av.open(str(path), "w") as container:
        if video:
            stream = container.add_stream(video, rate=25)
            stream.width, stream.height = size
            stream.pix_fmt, stream.time_base = pixels, MILLISECONDS
            stream.codec_context.time_base = MILLISECONDS
        if audio:
            sound = container.add_stream(audio, rate=rate, layout=layout)
            voice = av.AudioFrame.from_ndarray(clip.audio[None], format="s16", layout="mono")
            voice.sample_rate, voice.pts = 16_000, 0
            resampler = av.AudioResampler(sound.format, layout, rate, sound.frame_size or 1024)
            for part in (*resampler.resample(voice), *resampler.resample(None)):
                container.mux(sound.encode(part))
            container.mux(sound.encode(None))
        if video:
            times = np.arange(frames) / 25 if times is None else times
            for rgb, time in zip(clip.frames, times, strict=False):
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                frame = frame.reformat(*size, format=pixels)
                frame.pts, frame.time_base = round(time * 1000), MILLISECONDS
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def rotated(data: bytes) -> bytes:
    """An mp4 with the display matrix of a phone that was held upright."""
    at = data.index(b"tkhd") + 4 + 40
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    return data[:at] + matrix + data[at + 36 :]


def flipped(data: bytes, low: float, high: float, count: int) -> bytes:
    """`count` bytes changed between two places, in parts of the length."""
    changed = bytearray(data)
    for place in RNG.integers(int(low * len(data)), int(high * len(data)), count):
        changed[place] ^= int(RNG.integers(1, 256))
    return bytes(changed)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """The folder with all of them."""
    raw = tmp_path_factory.mktemp("raw")
    clip = synthesize_clip(3, "happy", 1, FRAMES / 25, SIZE)
    whole = {
        "mp4": encode(raw / "good.mp4", clip),
        "webm": encode(raw / "good.webm", clip, "libvpx", "libopus"),
        "mkv": encode(raw / "good.mkv", clip, audio="pcm_s16le", rate=16_000),
    }
    for suffix, path in whole.items():
        data = path.read_bytes()
        for turn, share in enumerate(RNG.uniform(0.02, 0.98, 4)):
            (raw / f"truncated {turn}.{suffix}").write_bytes(data[: int(share * len(data))])
        for turn in range(4):
            (raw / f"header {turn}.{suffix}").write_bytes(flipped(data, 0, 0.03, 4))
            (raw / f"middle {turn}.{suffix}").write_bytes(flipped(data, 0.3, 0.7, 30))
            (raw / f"end {turn}.{suffix}").write_bytes(flipped(data, 0.85, 1, 8))
        (raw / f"a {suffix} in truth.avi").write_bytes(data)
    good = whole["mp4"].read_bytes()
    (raw / "empty.mp4").touch()
    (raw / "text 語.mov").write_text("no video")
    (raw / "noise.ts").write_bytes(RNG.bytes(5000))
    (raw / "rotated.mp4").write_bytes(rotated(good))
    encode(raw / "voice alone.wav", clip, video=None, audio="pcm_s16le", rate=16_000)
    (raw / "voice alone.wav").rename(raw / "voice alone.mp4")
    encode(raw / "voice alone.m4v.mp4", clip, video=None)
    encode(raw / "silent film.mp4", clip, audio=None)
    encode(raw / "one frame.mp4", clip, frames=1)
    times = np.arange(FRAMES) / 25
    encode(raw / "huge jump.mkv", clip, times=times + 1e6 * (times > 0.5))
    encode(raw / "late start.mkv", clip, times=times + 1e6)
    encode(raw / "uneven.mp4", clip, times=np.cumsum(RNG.uniform(0.02, 0.06, FRAMES)))
    encode(raw / "odd.mkv", clip, "ffv1", pixels="yuv444p", size=(81, 67))
    encode(raw / "tiny.mkv", clip, "ffv1", pixels="yuv444p", size=(3, 2))
    encode(raw / "wide.mp4", clip, size=(256, 16))
    encode(raw / "ten bits.mkv", clip, "ffv1", pixels="yuv420p10le")
    encode(raw / "grey.mkv", clip, "ffv1", pixels="gray")
    encode(raw / "telephone.mov", clip, audio="pcm_mulaw", rate=8000)
    encode(raw / "surround.mkv", clip, audio="flac", layout="5.1")
    (raw / "circle").mkdir()
    (raw / "circle" / "again").symlink_to(raw)
    (raw / "gone.mp4").symlink_to(raw / "nowhere.mp4")
    return raw


def test_every_file_becomes_clips_or_a_sentence(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "_landmarker", lambda model: SeesAFace())
    monkeypatch.setattr(clips, "refusal", lambda scores: "")  # What the pictures show is no matter.
    jobs = folder.jobs(raw, 48, "no model", identity_from="file")
    assert len(jobs) > 60
    prepare(jobs, tmp_path, lambda source: "train", {"size": 48})
    assert verify(tmp_path, raw=True, workers=1).faults == []
    rows = manifest_of(tmp_path)
    assert {row.job for row in rows.values()} == {job.clip for job in jobs}
    for row in rows.values():
        assert row.state in ("accepted", "refused"), row
        assert bool(row.reason.strip()) == (row.state == "refused"), row
        assert "\n" not in row.reason, row
    states = {Path(row.source).name: row.state for row in rows.values()}
    assert {name for name in TAKEN if states[name] != "accepted"} == set()
    assert {name for name in NOT_TAKEN if states[name] != "refused"} == set()
