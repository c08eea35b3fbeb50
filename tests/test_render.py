"""From a portrait and a voice to a file: places, formats, faces, and every refusal."""

import errno
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data
from PIL import Image

from data_pipeline import face
from data_pipeline.video import VideoWriter, read_video
from reta_jax import render as rendering
from reta_jax.render import main, render_file
from reta_jax.renderer import Renderer
from reta_jax.weights import CONFIG_FILE, PARAMS_FILE, load_weights, save_weights
from reta_jax.windows import AudioWindow, audio_windows
from tests.tiny import RESEARCH_ONLY, TOLD, save_tiny_model
from tests.voices import FRAME, RATE, speech

REPOSITORY = Path(__file__).parents[1]
SOFT = speech(RATE) / speech(RATE).max() * 10 ** (-52 / 20)  # a peak that is not at rest yet


def save_wav(path: Path, waveform: np.ndarray, rate: int = RATE) -> Path:
    """Writes (n,) or interleaved (n, channels) samples with 16 bits."""
    with wave.open(str(path), "wb") as file:
        channels = 1 if waveform.ndim == 1 else waveform.shape[1]
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes((waveform * 32767).astype("<i2").tobytes())
    return path


def save_encoded(path: Path, waveform: np.ndarray, rate: int, codec: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], "fltp", "mono")
        frame.sample_rate, frame.pts = rate, 0
        context = stream.codec_context
        resampler = av.AudioResampler(
            context.format.name, "mono", rate, frame_size=context.frame_size or None
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny", [RESEARCH_ONLY])


@pytest.fixture
def folder(tmp_path, weights, monkeypatch) -> Path:
    """A folder with a face and a voice in it; nothing can be fetched, models are loaded once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(face.MODEL_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.setattr(face, "MODEL_ADDRESS", "file:///nowhere/at/all")
    monkeypatch.setattr(Renderer, "from_pretrained", load_once)
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "woman.png")
    save_wav(tmp_path / "voice.wav", speech(12 * FRAME + 5))
    (tmp_path / "out").mkdir()
    return tmp_path


load_once = functools.cache(Renderer.from_pretrained)


@pytest.fixture
def command(folder, weights):
    """Runs the command on the folder's face and voice; options replace or add."""

    def run(**options):
        given = {"image": "woman.png", "audio": "voice.wav", "out": "out/a.mp4"}
        given |= {"crop": "none", "checkpoint": weights} | options
        main([f"--{name}={value}" for name, value in given.items() if value is not None])

    return run


@pytest.fixture
def refused(command, folder, capsys):
    """Runs the command, which must refuse in one sentence and leave nothing; returns that."""

    def run(**options) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            command(**options)
        assert caught.value.code == 2
        assert list((folder / "out").iterdir()) == []
        printed = capsys.readouterr()
        sentences = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert len(sentences) == 1 and printed.err.endswith(sentences[0] + "\n"), printed.err
        assert "Traceback" not in printed.err and not printed.out
        return sentences[0]

    return run


# The command


def test_the_command_end_to_end(weights, tmp_path):
    """In a process of its own, by SadTalker's names, with an alias for the folder."""
    image = skimage.data.astronaut()[:300, 80:380]
    Image.fromarray(image).save(tmp_path / "woman.png")
    voice = speech(31 * FRAME + 7)
    save_wav(tmp_path / "voice.wav", voice)
    (tmp_path / "out").mkdir()
    arguments = {
        "source_image": "woman.png",
        "driven_audio": "voice.wav",
        "result_dir": "out",
        "checkpoint": weights,
        "crop": "none",
    }
    done = run_process(tmp_path, [f"--{name}={value}" for name, value in arguments.items()])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out/woman_voice.mp4: 32 frames, 1.28 s\n"
    assert "32/32 frames" in done.stderr and "woman.png: the middle square" in done.stderr
    first, *others = done.stderr.splitlines()
    assert first == TOLD and len(others) == 2, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["woman_voice.mp4"]

    path = tmp_path / "out" / "woman_voice.mp4"
    with av.open(str(path)) as container:
        video, sound = container.streams
        assert (video.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        assert video.average_rate == 25 and (video.width, video.height) == (32, 32)
    frames, audio = read_video(path)
    assert len(frames) == 32 and len(audio) == 32 * FRAME
    lags = range(-FRAME, FRAME + 1, 8)
    inner = slice(FRAME, 30 * FRAME)
    agreement = [np.dot(np.roll(audio, lag)[inner], voice[inner]) for lag in lags]
    assert lags[int(np.argmax(agreement))] == 0  # in step to half a millisecond

    renderer = Renderer.from_pretrained(weights)
    small, _ = face.portrait_crop(image, 32, "none")
    expected = renderer.render(small, (voice * 32767).astype(np.int16) / np.float32(32768))
    assert np.abs(frames.astype(int) - expected).mean() < 8  # yuv420p at 32 px


def run_process(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "reta_jax.render", *arguments],
        cwd=folder,
        env=process_environment(folder),
        capture_output=True,
        text=True,
    )


def process_environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(folder / ".cache")}


def test_short_names_and_the_default_places(command, folder, capsys):
    command(out=None)
    assert (folder / "woman_voice.mp4").is_file()
    assert capsys.readouterr().out == "woman_voice.mp4: 13 frames, 0.52 s\n"
    command(out=None, result_dir="new/folder")
    assert (folder / "new" / "folder" / "woman_voice.mp4").is_file()


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "rgba.png", "rgba.webp", "grey.png"])
def test_portraits_of_every_format(command, folder, name):
    image = Image.open(folder / "woman.png")
    if name.startswith("rgba"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    if name.startswith("grey"):
        image = image.convert("L")
    image.save(folder / name)
    command(image=name)
    assert read_video(folder / "out" / "a.mp4").frames.shape == (13, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("v.flac", "flac", 22_050),
        ("v.mp3", "libmp3lame", 44_100),
        ("v.ogg", "libopus", 48_000),
        ("v.m4a", "aac", 44_100),
    ],
)
def test_voices_of_every_format(command, folder, name, codec, rate):
    save_encoded(folder / name, speech(rate, rate), rate, codec)
    command(audio=name)
    frames, audio = read_video(folder / "out" / "a.mp4")
    assert 25 <= len(frames) <= 27  # codecs may leave their last block's padding in
    assert len(audio) == len(frames) * FRAME


def test_telephone_stereo_just_works(command, folder):
    voice = speech(8_000, 8_000)
    save_wav(folder / "phone.wav", np.stack([voice, 0.5 * voice], -1), 8_000)
    command(audio="phone.wav")
    assert len(read_video(folder / "out" / "a.mp4").frames) == 25


def test_less_than_a_frame_of_voice_is_one_frame(command, folder):
    save_wav(folder / "short.wav", speech(400))
    command(audio="short.wav")
    assert len(read_video(folder / "out" / "a.mp4").frames) == 1


def test_ten_minutes_of_telephone_are_read_and_cut(folder):
    minute = speech(60 * 8_000, 8_000)
    save_wav(folder / "long.wav", np.tile(np.stack([minute, minute], -1), (10, 1)), 8_000)
    waveform = rendering.load_audio(folder / "long.wav")
    assert abs(len(waveform) - 600 * RATE) <= FRAME and not rendering.is_silent(waveform)
    assert sum(count for _, count in audio_windows(waveform, AudioWindow())) == 15_000


# Faces


def test_the_cascade_finds_the_face_and_says_so(command, folder, capsys):
    command(crop="auto")
    notes = [line for line in capsys.readouterr().err.splitlines() if "cascade" in line]
    assert len(notes) == 1 and notes[0].startswith("woman.png: the face at (2")
    assert "landmarker" in notes[0]


def test_the_largest_of_two_faces_is_taken_with_a_note(command, folder, capsys, monkeypatch):
    class TwoFaces:
        def boxes(self, image):
            return [np.array([220.0, 140, 120]), np.array([40.0, 40, 30])]

    monkeypatch.setattr(face, "default_detector", TwoFaces)
    command(crop="auto")
    notes = [line for line in capsys.readouterr().err.splitlines() if "woman.png" in line]
    assert len(notes) == 1 and notes[0].endswith("the largest of 2 faces")


def test_the_cascade_takes_the_larger_of_two_faces(folder):
    woman = skimage.data.astronaut()[:300, 80:380]
    small = np.pad(woman[::2, ::2], ((75, 75), (0, 60), (0, 0)), constant_values=90)
    (box,) = face.CascadeDetector().boxes(np.concatenate([small, woman], axis=1))
    assert abs(box[0] - (210 + 140)) < 20


def test_a_landmarker_by_flag_is_built_and_used(command, refused, folder, monkeypatch):
    asked = []

    class Landmarker:
        def __init__(self, path):
            asked.append(path)

        def boxes(self, image):
            return [np.array([220.0, 140, 120])]

    flag = "face-landmarker"
    assert "missing.task does not exist" in refused(crop="auto", **{flag: "missing.task"})
    monkeypatch.setattr(rendering, "FaceLandmarker", Landmarker)
    command(crop="auto", **{flag: "given.task"})
    assert asked == [Path("given.task")]


def test_a_server_that_never_answers_does_not_hold_anybody_up(folder, monkeypatch):
    assert face.FETCH_SECONDS <= 5
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(face, "FETCH_SECONDS", 0.2)
        monkeypatch.setattr(
            face, "MODEL_ADDRESS", f"http://127.0.0.1:{server.getsockname()[1]}/model"
        )
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert isinstance(face.default_detector(), face.CascadeDetector)


# Refusals


def test_bad_portraits(refused, folder):
    (folder / "text.png").write_text("not a picture")
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    Image.linear_gradient("L").resize((200, 120)).save(folder / "landscape.png")
    for name, what in {
        "missing.png": "is not a file",
        "text.png": "cannot be read as an image",
        "out": "is not a file",
        "noise.png": "no face found",
        "landscape.png": "no face found in the 200x120 image",
    }.items():
        sentence = refused(image=name, crop="auto")
        assert what in sentence
        assert name in sentence or what.startswith("no face")


def test_bad_voices(refused, folder):
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("not a voice")
    save_wav(folder / "none.wav", np.zeros((0,), np.float32))
    save_wav(folder / "silent.wav", 1e-4 * speech(RATE))
    hiss = 1e-3 * np.random.default_rng(0).standard_normal(RATE)
    save_wav(folder / "offset.wav", hiss + 0.01)
    save_wav(folder / "quiet.wav", SOFT)
    for name, what in {
        "missing.wav": "does not exist",
        "empty.wav": "is empty",
        "text.wav": "cannot be decoded",
        "none.wav": "without a single sample",
        "silent.wav": "is silent",
        "quiet.wav": "quieter than -50 dB.* --no-close-in-silence",
        "offset.wav": "quieter than -50 dB",
        "woman.png": "audio",
    }.items():
        sentence = refused(audio=name)
        assert re.search(what, sentence) and name in sentence


def test_a_soft_voice_moves_a_mouth_that_does_not_fade(folder, weights):
    renderer = Renderer.from_pretrained(weights, close_in_silence=False)
    audio = save_wav(folder / "quiet.wav", SOFT)
    assert render_file(renderer, folder / "woman.png", audio, folder / "a.mp4", "none") == 25


def test_bad_checkpoints(refused, folder, weights):
    for name in ("truncated", "no_config", "broken_config", "partial"):
        shutil.copytree(weights, folder / name)
    (folder / "empty").mkdir()
    (folder / "run" / "checkpoints").mkdir(parents=True)
    data = (weights / PARAMS_FILE).read_bytes()
    (folder / "truncated" / PARAMS_FILE).write_bytes(data[: len(data) // 2])
    (folder / "no_config" / CONFIG_FILE).unlink()
    (folder / "broken_config" / CONFIG_FILE).write_text('{"model": ')
    params, config = load_weights(weights)
    removed = params.pop("image_encoder")
    save_weights(folder / "partial", params, config)
    params["image_encoder"] = removed
    save_weights(folder / "expert", params, {"kind": "vgg19", "fields": {}})
    unknown = config | {"model": config["model"] | {"geometry": "cube"}}
    save_weights(folder / "unknown", params, unknown)
    wider = config | {"model": config["model"] | {"style_dim": 48}}
    save_weights(folder / "wider", params, wider)
    for name, what in {
        "missing": "there is no folder missing",
        "empty": "no model at empty",
        "run": "no finished checkpoint",
        "truncated": "cannot read the weights",
        "no_config": f"no {CONFIG_FILE}",
        "broken_config": "cannot read the weights",
        "partial": "does not fit the model: missing image_encoder/",
        "expert": "holds 'vgg19' weights, not a RETA model",
        "unknown": "describes no RETA model: model.geometry is 'cube'",
        "wider": "does not fit the model",
    }.items():
        sentence = refused(checkpoint=name)
        assert what in sentence and name in sentence


def test_places_that_cannot_be_written_to(refused, folder, monkeypatch):
    """Are refused before anything is rendered."""
    monkeypatch.setattr(rendering, "load_audio", None)
    (folder / "file").touch()
    (folder / "taken").mkdir()
    for place in ("missing/a.mp4", "file/a.mp4", "taken"):
        assert f"cannot write {place}" in refused(out=place)
    for place in ("a", "a.txt", "a.avi", "mp4"):
        assert f"cannot write {place}: it is to hold an MP4" in refused(out=place)
    assert "file cannot be made a folder" in refused(out=None, result_dir="file")
    assert not list(folder.glob("**/*.part")) and list((folder / "taken").iterdir()) == []


@pytest.mark.parametrize("option", ["image", "audio"])
def test_what_is_read_is_not_written_over(refused, folder, option):
    """Under whatever name."""
    (folder / "read.mp4").write_text("precious")
    (folder / "linked.mp4").symlink_to("read.mp4")
    for place in ("read.mp4", "./out/../read.mp4", "linked.mp4"):
        sentence = refused(**{option: "read.mp4", "out": place})
        assert "it would replace read.mp4, which is read; name another file" in sentence
    assert (folder / "read.mp4").read_text() == "precious"


def test_out_and_result_dir_exclude_each_other(command, capsys):
    with pytest.raises(SystemExit) as caught:
        command(result_dir="out")
    assert caught.value.code == 2 and "not allowed with" in capsys.readouterr().err


def test_a_full_disk(refused, folder, monkeypatch):
    write_frame, written = VideoWriter._write_frame, []

    def fill_up(self, rgb):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(rgb)
        write_frame(self, rgb)

    monkeypatch.setattr(VideoWriter, "_write_frame", fill_up)
    assert "cannot write out/a.mp4 (No space left on device)" in refused()
    written.clear()
    (folder / "b.mp4").write_text("from before")
    refused(out="b.mp4")
    assert (folder / "b.mp4").read_text() == "from before"
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_killed_in_the_middle_of_writing(folder, weights, name):
    save_wav(folder / "long.wav", np.tile(speech(10 * 8_000, 8_000), 120), 8_000)
    arguments = ["--image=woman.png", "--audio=long.wav", "--out=out/a.mp4", "--crop=none"]
    process = subprocess.Popen(
        [sys.executable, "-m", "reta_jax.render", f"--checkpoint={weights}", *arguments],
        cwd=folder,
        env=process_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out = folder / "out"
    while process.poll() is None and not any(p.stat().st_size for p in out.glob(".a.mp4.*.part")):
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    printed, complaints = process.communicate()
    assert not (out / "a.mp4").exists() and not printed
    assert "Traceback" not in complaints
    if name == "SIGINT":
        assert process.returncode == 130, complaints
        assert list(out.iterdir()) == []
    else:
        assert process.returncode == -signal.SIGKILL


def test_a_negative_expression_scale_is_refused(refused):
    assert "an expression scale of -1: give 0 or more" in refused(**{"expression-scale": -1})
