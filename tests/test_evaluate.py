"""The judging of a random model by random judges: truth is perfect, blocks do not show."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline import loader
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.face import MOUTH, eye_distance
from data_pipeline.loader import evaluation_clips
from data_pipeline.prepare import prepare_synthetic
from reta_jax import evaluate as judging
from reta_jax.evaluate import NOT_ASKED, evaluate, load_judges, main
from reta_jax.experts.emotion_fan import EmotionFAN
from reta_jax.experts.landmark_net import LandmarkNet, into_lower_face, lower_face
from reta_jax.experts.load import example_inputs
from reta_jax.experts.syncnet import SyncNetV2
from reta_jax.images import to_float
from reta_jax.metrics import clips as clip_figures
from reta_jax.metrics import image
from reta_jax.metrics import judges as judge_networks
from reta_jax.metrics.blocks import BLOCK, in_blocks
from reta_jax.metrics.cache import Judged
from reta_jax.metrics.clips import judge_generated, judge_known
from reta_jax.metrics.image import psnr
from reta_jax.metrics.judges import Judge, objections
from reta_jax.metrics.protocol import Protocol, check_same, load_suite, read_protocol
from reta_jax.metrics.rendering import coefficients, cut, through_codec, waiting_clips
from reta_jax.metrics.rows import OTHER_VOICE
from reta_jax.metrics.sync import SyncJudge
from reta_jax.metrics.tables import figures_table, markdown_report
from reta_jax.renderer import Renderer
from reta_jax.report import markdown_table
from reta_jax.weights import load_weights, save_weights
from tests.tiny import RESEARCH_ONLY, TOLD, save_tiny_model
from tests.weights import random_variables

pytestmark = pytest.mark.usefixtures("quickly_compiled")

FIGURES = {
    "psnr",
    "psnr_clip",
    "ssim",
    "mouth_correlation",
    "mouth_opening_error",
    "mouth_landmark_distance",
    "mouth_landmark_distance_px",
    "mouth_jitter",
    "voice_correlation",
    "emotion_accuracy",
}
SOMETIMES = {"movement_in_silence", "lip_vertex_error_mm2", "lip_vertex_distance_mm"}
LATE, EARLY = "truth, 3 frames late", "truth, 3 frames early"
ROWS = {"generated", "still portrait", LATE, EARLY, "truth, blurred", "truth", OTHER_VOICE}
MOUTH_FIELDS = {"size": 16, "width": 8}
FEELING_FIELDS = {"width": 4, "classes": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two clips of somebody new, 32 px, none of them a multiple of BLOCK long."""
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(folder, identities=2, clips_per_identity=2, seconds=1.2, size=32, workers=1)
    assert all(len(clip.frames) % BLOCK for clip in evaluation_clips(folder, "test"))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def mouth_variables():
    return random_variables(LandmarkNet(**MOUTH_FIELDS), jnp.zeros((1, 16, 16, 3)))


@pytest.fixture(scope="module")
def judges_folder(tmp_path_factory, mouth_variables):
    folder = tmp_path_factory.mktemp("judges")
    feelings = random_variables(EmotionFAN(**FEELING_FIELDS), jnp.zeros((1, 2, 64, 64, 3)))
    for kind, variables, fields in (
        ("landmark_net", mouth_variables, MOUTH_FIELDS),
        ("emotion_fan", feelings, FEELING_FIELDS),
    ):
        about = {"kind": kind, "fields": fields, "people": ["somebody"]}
        save_weights(folder / kind, variables, about)
    return folder


@pytest.fixture(scope="module")
def judges(judges_folder):
    return load_judges(judges_folder)


@pytest.fixture(scope="module")
def clip(data):
    return next(iter(evaluation_clips(data, "test", 32)))


@pytest.fixture(scope="module")
def report(weights, judges, data):
    return evaluate(Renderer.from_pretrained(weights), judges, data)


def test_the_report_has_every_row_and_figure(report, data):
    clips = list(evaluation_clips(data, "test"))
    assert report["split"] == "test" and report["clips"] == len(clips) > 0
    assert report["identities"] == len({clip.identity for clip in clips})
    assert set(report["rows"]) == set(report["intervals"]) == ROWS
    for name, row in report["rows"].items():
        assert set(row) - SOMETIMES == FIGURES
        assert np.isfinite(list(row.values())).all()
        for figure, (low, high) in report["intervals"][name].items():
            assert low - 1e-6 <= row[figure] <= high + 1e-6
    assert set(report["by_emotion"]) == {EMOTIONS[clip.emotion] for clip in clips}
    assert set(report["by_identity"]) == {clip.identity for clip in clips}
    assert report["speed"]["frames_per_second"] > 0
    assert report["judges"]["mouth"]["network"] == "landmark_net"
    assert any("SyncNet" in note for note in report["notes"])
    assert report["rows"]["truth"]["lip_vertex_error_mm2"] == 0
    assert report["rows"]["generated"]["lip_vertex_error_mm2"] > 1  # a mesh of random weights
    assert "**It was its teacher.**" in markdown_report(
        report | {"objections": ["it was its teacher"]}
    )
    assert report == json.loads(json.dumps(report))
    assert report["protocol"]["size"] == 32  # the model's own


def test_models_of_all_sizes_can_be_compared_at_one(weights, judges, data):
    renderer, protocol = Renderer.from_pretrained(weights), Protocol(figures=("image",), size=48)
    small, large = (
        evaluate(renderer, judges, data, protocol=one)
        for one in (dataclasses.replace(protocol, size=None), protocol)
    )
    assert (small["protocol"]["size"], large["protocol"]["size"]) == (renderer.size, 48)
    assert small["protocol_sha256"] != large["protocol_sha256"]
    assert large["rows"]["truth"]["psnr"] == 100
    np.testing.assert_allclose(
        large["rows"]["generated"]["psnr"], small["rows"]["generated"]["psnr"], atol=1.5
    )


def test_truth_is_perfect_and_doing_nothing_is_not(report):
    truth, still = report["rows"]["truth"], report["rows"]["still portrait"]
    assert (truth["psnr"], truth["ssim"]) == (100.0, 1.0)
    assert still["psnr"] < 60 and still["ssim"] < 1
    assert report["rows"]["generated"]["psnr"] < still["psnr"]  # random weights


def test_the_fid_stands_in_every_row_that_has_it(weights, judges, data):
    pixels = lambda x: x[:, ::9, ::9].reshape(len(x), -1).astype(float)
    judges = judges._replace(inception=Judge("pixels", "", pixels))
    report = evaluate(
        Renderer.from_pretrained(weights), judges, data, protocol=Protocol(figures=("fid",))
    )
    fid = {name: row["fid"] for name, row in report["rows"].items() if "fid" in row}
    assert set(fid) == set(clip_figures.FID_ROWS)
    assert abs(fid["truth"]) < 1e-6 < fid["truth, blurred"] < fid["generated"]
    assert any("FID of 50 frames" in note for note in report["notes"])


def only_truth(judges, clip, protocol=None):
    """Figures of the truth of a clip as a model's output."""
    protocol = protocol or Protocol()
    others = judge_known(judges, protocol, clip)
    return judge_generated(judges, protocol, clip, clip.frames, others).rows["generated"]


def test_a_mouth_that_does_not_move_correlates_with_nothing(report):
    still = report["rows"]["still portrait"]
    assert still["mouth_correlation"] == 0.0 < still["mouth_opening_error"]


def test_a_perfect_judge_of_the_mouth_finds_the_truth(judges, clip):
    """The truth's landmarks are brought to where the judge's points are."""
    boxes = jnp.broadcast_to(clip.sync_box, (len(clip.frames), 4))
    points = np.asarray(into_lower_face(jnp.asarray(clip.landmarks[:, MOUTH]), boxes))
    always = lambda frames, box: np.resize(points, (len(frames), 20, 2))
    figures = only_truth(judges._replace(mouth=judges.mouth._replace(look=always)), clip)
    np.testing.assert_allclose(figures["mouth_landmark_distance"], 0, atol=1e-7)
    np.testing.assert_allclose(figures["mouth_opening_error"], 0, atol=1e-7)
    np.testing.assert_allclose(figures["mouth_correlation"], 1, rtol=1e-5)
    assert 0 < points[..., 0].mean() < 1 and 0 < points[..., 1].mean() < 1


@pytest.fixture(scope="module")
def mouths(mouth_variables, clip):
    """What the network finds in the whole clip at once."""
    network = LandmarkNet(**MOUTH_FIELDS)
    boxes = jnp.broadcast_to(clip.sync_box, (len(clip.frames), 4))
    faces = lower_face(to_float(jnp.asarray(clip.frames)), boxes, 16)
    return jax.jit(network.apply)(mouth_variables, faces)


@pytest.mark.parametrize("frames", [1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_blocks_do_not_show(judges, mouths, clip, frames):
    video = clip.frames[:frames]
    found = judges.mouth.look(video, clip.sync_box)
    assert found.shape == (frames, 20, 2)
    np.testing.assert_allclose(found, mouths[:frames], atol=1e-5)
    other = np.roll(video, 1, 2)
    figures = in_blocks(image._psnr, video, other)
    np.testing.assert_allclose(figures, psnr(jnp.asarray(video), jnp.asarray(other)), rtol=1e-6)
    assert judges.emotion.look(video) in range(len(EMOTIONS))


def test_clips_of_unknown_emotion_are_not_judged_by_it(judges, clip):
    assert "emotion_accuracy" not in only_truth(judges, clip._replace(emotion=-1))


def test_the_emotion_figure_is_that_the_judge_agrees(judges, clip):
    seen = judges.emotion.look(clip.frames)
    agreeing = only_truth(judges, clip._replace(emotion=seen))
    differing = only_truth(judges, clip._replace(emotion=(seen + 1) % 8))
    assert (agreeing["emotion_accuracy"], differing["emotion_accuracy"]) == (1.0, 0.0)


def test_the_mesh_is_that_of_the_voice(weights, clip):
    """p_exp of every frame, whole chunks of the same audio windows as the frames."""
    renderer = Renderer.from_pretrained(weights)
    found = coefficients(renderer, clip)
    assert found.shape[1:] == (64,) and len(found) >= len(clip.frames)
    again = coefficients(renderer, clip._replace(audio=clip.audio[: 640 * 20]))
    np.testing.assert_allclose(found[:8], again[:8], atol=1e-6)  # its window ends at 12
    assert np.std(found, 0).max() > 0


def test_the_sync_judge_looks_at_both_crops(judges_folder, tmp_path, clip):
    fields = {"channel_multiplier": 1 / 32}
    variables = random_variables(SyncNetV2(**fields), *example_inputs("syncnet_v2"))
    folder = tmp_path / "syncnet_v2"
    save_weights(folder, variables, {"kind": "syncnet_v2", "fields": fields})
    judges = load_judges(judges_folder, syncnet=folder)
    short = cut(clip, Protocol(frames=8))
    figures = only_truth(judges, short, Protocol(figures=("sync",)))
    for suffix, box in (("", short.sync_box), ("_whole", None)):
        expected = SyncJudge(SyncNetV2(**fields), variables)(short.frames, short.audio, box)
        assert figures[f"sync_offset{suffix}"] == expected.offset
        np.testing.assert_allclose(figures[f"sync_d{suffix}"], expected.distance, rtol=1e-4)
        np.testing.assert_allclose(figures[f"sync_c{suffix}"], expected.confidence, atol=1e-4)
    assert figures["sync_d"] != figures["sync_d_whole"] and len(figures) == 6


def test_anybodys_identity_network_may_judge(judges_folder, clip, monkeypatch):
    monkeypatch.setattr(judging, "colours", lambda x: 3.0 * x.mean((1, 2)), raising=False)
    with pytest.raises(InputError, match="no identity network at"):
        load_judges(judges_folder, identity="reta_jax.evaluate:missing")
    look = load_judges(judges_folder, identity="reta_jax.evaluate:colours").identity.look
    np.testing.assert_allclose(np.linalg.norm(look(clip.frames), axis=1), 1, rtol=1e-6)
    for wrong, sentence in (
        (lambda x: x.mean(), "not \\(t, d\\)"),
        (lambda x: np.full((len(x), 3), np.nan), "numbers that are not finite"),
        (None, "that is no function"),
    ):
        monkeypatch.setattr(judging, "colours", wrong)
        with pytest.raises(InputError, match=sentence):
            load_judges(judges_folder, identity="reta_jax.evaluate:colours")
    for wrong in ("a:b:c", ":f", "json:"):
        with pytest.raises(InputError, match=f"{wrong} is no MODULE:FUNCTION"):
            load_judges(judges_folder, identity=wrong)


def test_mediapipe_judges_mouths_and_faces_and_looks_once(
    judges_folder, clip, tmp_path, monkeypatch
):
    looks = []

    def find_points(frames, landmarker):
        """The true landmarks in true frames; no face in others."""
        looks.append(len(frames))
        points = np.full((len(frames), 68, 2), np.nan)
        for i, frame in enumerate(frames):
            same = (clip.frames == frame).all((1, 2, 3))
            if same.any():
                points[i] = clip.landmarks[same.argmax()] * len(frame)
        return points

    monkeypatch.setattr(judge_networks, "find_points", find_points)
    monkeypatch.setattr(judge_networks, "FaceLandmarker", lambda model: None)
    model = tmp_path / "face_landmarker.task"
    model.write_bytes(b"landmarks")
    judges = load_judges(judges_folder, face_landmarker=model)
    rows = judge_known(judges, Protocol(figures=("mouth", "face")), clip).rows

    truth, late, blurred = (rows[name] for name in ("truth", LATE, "truth, blurred"))
    assert truth["mouth_correlation"] > 0.9999 and truth["mouth_landmark_distance"] < 1e-5
    assert truth["faces_seen"] == 1 and late["mouth_correlation"] < 0.99
    assert blurred["faces_seen"] == 0 and "mouth_correlation" not in blurred
    assert len(looks) == 1


def test_a_protocol_cuts_and_chooses_the_portrait(clip):
    short = cut(clip, Protocol(frames=7, source="own"))
    assert len(short.frames) == len(short.landmarks) == 7 and len(short.audio) == 7 * 640
    np.testing.assert_array_equal(short.portrait, clip.frames[0])
    assert len(cut(clip, Protocol()).frames) == len(clip.frames)


def test_a_clip_that_is_known_is_not_decoded(data, monkeypatch):
    expected = list(evaluation_clips(data, "test"))[1]
    decoded, decode = [], loader.decode_picture
    monkeypatch.setattr(loader, "decode_picture", lambda *of: decoded.append(of) or decode(*of))
    known = Judged("a clip", "somebody", "", {}, {}, np.zeros(0))
    ((i, later, voice),) = waiting_clips(data, Protocol(), [known, None])
    assert i == 1 and later.clip == expected.clip and voice is not None
    assert len(decoded) <= len(later.frames) + 1  # and the portrait


@pytest.mark.parametrize("size", [32, 31])  # odd ones become even in the file
def test_a_codec_changes_little_and_loses_no_frame(clip, size):
    frames = clip.frames[:, :size, :size]
    shown = through_codec(frames, clip.audio)
    assert shown.shape == frames.shape and not np.array_equal(shown, frames)
    assert float(psnr(jnp.asarray(shown), jnp.asarray(frames)).mean()) > 25


def test_a_judge_that_taught_is_named(judges_folder, judges):
    config = {
        "experts": {
            "teacher": {"weights": str(judges_folder / "emotion_fan")},
            "sync": {"weights": "nowhere"},
            "vgg": {"weights": "random"},
        },
        "loss": {"emotion": 1.0, "sync": 1.0, "perceptual": 1.0},
        "data": {"dirs": ["nowhere"]},
    }
    unknown, sentence = objections(judges, config)
    assert "not known whom the model was trained on" in unknown
    assert "emotion judge" in sentence and "trained against" in sentence
    config |= {"provenance": [{"source": "nowhere", "people": ["anybody"]}]}
    assert objections(judges, config) == [sentence]
    assert not objections(judges, config | {"loss": config["loss"] | {"emotion": 0.0}})
    config["provenance"] += [{"source": "x", "files": [{"sha256": judges.mouth.files[0]}]}]
    found = objections(judges, config)
    assert len(found) == 2 and "mouth judge" in found[0]


def test_a_judge_that_knows_the_models_people_is_named(judges, data):
    config = {
        "experts": {name: {"weights": "random"} for name in ("teacher", "sync", "vgg")},
        "loss": {"emotion": 0.0, "sync": 0.0, "perceptual": 0.0},
        "data": {"dirs": [str(data)]},
    }
    people = ("somebody else", "synthetic_0_00000")
    judges = judges._replace(face=judges.mouth._replace(people=people))
    (sentence,) = objections(judges, config)
    assert "face judge was trained on 1 (synthetic_0_00000" in sentence
    both = objections(judges, config, ["synthetic_0_00000", "somebody"])
    assert both[0].startswith("the model was trained on 1 (synthetic_0_00000")
    assert sum("that are judged" in one and "judge was trained" in one for one in both) == 3


def test_whom_earlier_runs_knew_is_remembered(judges, data):
    config = {
        "experts": {},
        "loss": {},
        "data": {"dirs": [str(data)]},
        "provenance": [{"source": "the first run's", "people": ["somebody"]}],
    }
    found = objections(judges, config)
    assert len(found) == 2 and all("1 (somebody, …)" in sentence for sentence in found)


def test_a_judge_that_learned_from_nobody_knows_whom_is_named(judges):
    config = {"experts": {}, "loss": {}, "data": {"dirs": []}}
    assert not objections(judges, config)
    unknown = judges._replace(
        mouth=judges.mouth._replace(people=(), held_out_score=0.9),
        inception=Judge("fid_inception", "", None),
    )
    (sentence,) = objections(unknown, config)
    assert sentence.startswith("it is not known whom the mouth judge learned from")


def test_objections_are_the_same_from_everywhere(data, judges_folder, judges, monkeypatch):
    """A config's relative places are those below the project."""
    monkeypatch.setattr(judge_networks, "ROOT", judges_folder.parent)
    monkeypatch.chdir("/")
    config = {
        "experts": {"teacher": {"weights": f"{judges_folder.name}/emotion_fan"}},
        "loss": {"emotion": 1.0},
        "data": {"dirs": []},
    }
    (sentence,) = objections(judges, config)
    assert "trained against (experts.teacher)" in sentence
    monkeypatch.setattr(judge_networks, "ROOT", data.parent)
    config = {"experts": {}, "loss": {}, "data": {"dirs": [data.name]}}
    known = judges._replace(mouth=judges.mouth._replace(people=("synthetic_0_00000",)))
    assert "1 (synthetic_0_00000" in objections(known, config)[0]


@pytest.mark.parametrize("changed", [{"labels": EMOTIONS[::-1]}, {"image_size": 32}])
def test_judges_differ_by_how_their_weights_are_used(judges_folder, judges, tmp_path, changed):
    about = {"kind": "emotion_fan", "fields": FEELING_FIELDS, "people": ["somebody"]}
    for name, other in (("same", {}), ("changed", changed)):
        variables = load_weights(judges_folder / "emotion_fan")[0]
        save_weights(tmp_path / name, variables, about | other)
    found = {
        name: load_judges(judges_folder, emotion=tmp_path / name).emotion.sha256
        for name in ("same", "changed")
    }
    assert found["same"] == judges.emotion.sha256 != found["changed"]


def test_psnr_of_a_clip_is_not_raised_by_one_exact_frame():
    """Between equal errors of all other frames, the exact one decides `psnr` alone."""
    random = np.random.default_rng(0)
    one = random.integers(60, 190, (1, 16, 16, 3))
    truth = np.clip(one + random.normal(0, 20, (25, 16, 16, 3)), 0, 255).astype(np.uint8)
    still = np.repeat(truth[:1], 25, 0)
    model = np.clip(truth + random.normal(0, 26, truth.shape), 0, 255).astype(np.uint8)
    found = [image.compare_pixels(video, truth) for video in (still, model)]
    for figures, video in zip(found, (still, model), strict=True):
        error = np.square(video.astype(np.float64) - truth).mean()
        expected = 10 * np.log10(255**2 / error)
        np.testing.assert_allclose(figures["psnr_clip"], expected, rtol=1e-6)
    assert found[0]["psnr"] > found[1]["psnr"] and found[0]["psnr_clip"] < found[1]["psnr_clip"]
    assert image.compare_pixels(truth, truth)["psnr_clip"] == 100


def test_a_clip_without_landmarks_has_no_true_mouth(judges, clip):
    face = np.random.default_rng(0).uniform(0.3, 0.7, (len(clip.frames), 68, 2))
    look = lambda frames, *_: np.resize(face, (len(frames), 68, 2))
    judges = judges._replace(
        face=Judge("known", "", look), mouth=Judge("lips", "", lambda *x: look(*x)[:, 48:68])
    )
    bare = clip._replace(landmarks=np.zeros_like(clip.landmarks))
    protocol = Protocol(figures=("mouth", "face"))
    compared = {
        "mouth_correlation", "mouth_opening_error", "mouth_landmark_distance",
        "mouth_landmark_distance_px", "face_landmark_distance", "face_landmark_distance_px",
        "lip_landmark_error_mm2", "lip_landmark_distance_mm",
    }  # fmt: skip
    whole, found = (only_truth(judges, one, protocol) for one in (clip, bare))
    assert set(found) == set(whole) - compared and compared < set(whole)
    # In another unit, so that its last digit may be another.
    assert found["voice_correlation"] == pytest.approx(whole["voice_correlation"], rel=1e-12)
    units = [eye_distance(points).mean() for points in (clip.landmarks, face)]
    for jitter in ("mouth_jitter", "face_jitter"):
        np.testing.assert_allclose(found[jitter] / whole[jitter], units[0] / units[1])
    assert clip_figures.remarks(judges, protocol, bare) == [clip_figures.NO_LANDMARKS]
    assert clip_figures.remarks(judges, protocol, clip) == []


def test_a_clip_too_short_for_the_sync_judge_is_not_heard(judges, clip):
    judges = judges._replace(sync=Judge("none", "", lambda *_: pytest.fail("it is asked")))
    short, protocol = cut(clip, Protocol(frames=5)), Protocol(figures=("sync", "image"))
    assert set(only_truth(judges, short, protocol)) == {"psnr", "psnr_clip", "ssim"}
    assert clip_figures.remarks(judges, protocol, short) == [clip_figures.TOO_SHORT]


def test_times_are_of_a_device(weights, judges, data, tmp_path, monkeypatch):
    renderer, protocol = Renderer.from_pretrained(weights), Protocol(figures=("image",), clips=1)
    evaluate(renderer, judges, data, protocol=protocol, cache=tmp_path)
    monkeypatch.setattr(judging, "render_clip", lambda *_: pytest.fail("it renders again"))
    evaluate(renderer, judges, data, protocol=protocol, cache=tmp_path)
    monkeypatch.setattr(judging, "device", lambda: "another")
    with pytest.raises(pytest.fail.Exception, match="renders again"):
        evaluate(renderer, judges, data, protocol=protocol, cache=tmp_path)


@pytest.fixture
def commands(weights, judges_folder, data):
    return [f"--checkpoint={weights}", f"--data={data}", f"--judges={judges_folder}"]


def test_the_command_writes_a_report_that_can_be_made_again(commands, tmp_path, capsys):
    main([*commands, "--suite=paper", "--limit=1", f"--out={tmp_path / 'a'}"])
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    text = (tmp_path / "a" / "report.md").read_text()
    assert report["clips"] == 1 and capsys.readouterr().out == text
    assert markdown_table(figures_table(report["rows"])) in text
    assert text.startswith("# `") and report["protocol_sha256"] in text
    protocol, run = read_protocol(tmp_path / "a" / "protocol.yaml")
    assert protocol.sha256 == report["protocol_sha256"] != load_suite("paper").sha256
    assert set(report["rows"]["truth"]) <= {
        "psnr", "psnr_clip", "ssim", "emotion_accuracy", "lip_vertex_error_mm2",
        "lip_vertex_distance_mm",
    }  # fmt: skip

    main([f"--protocol={tmp_path / 'a' / 'protocol.yaml'}", f"--out={tmp_path / 'b'}"])
    again = json.loads((tmp_path / "b" / "report.json").read_text())
    unlike = {"speed"}
    assert {k: v for k, v in again.items() if k not in unlike} == {
        k: v for k, v in report.items() if k not in unlike
    }
    assert run["sha256"] == again["sha256"]


def test_filmed_people_are_not_shown_to_own_judges(weights, judges_folder, data, monkeypatch):
    """But to those that are named; who is of no synthetic world is filmed."""
    for module in (judging, judge_networks):
        monkeypatch.setattr(module, "JUDGES", judges_folder)
    model = judging.load_reta(weights)
    monkeypatch.setattr(judging, "load_reta", lambda _: model)
    judged = lambda renderer, judges, *_, **__: {"asked": set(judges.sha256), "notes": []}
    monkeypatch.setattr(judging, "evaluate", judged)
    listed = judging.list_clips(data, "test")

    def report_of(identity, **named):
        clips = [clip | {"identity": identity} for clip in listed]
        monkeypatch.setattr(judging, "list_clips", lambda *_: clips)
        places = {"checkpoint": str(weights), "data": str(data)}
        return judging._judge_places(places | named, Protocol(), {}, None)

    both = {"mouth", "emotion"}
    assert report_of("synthetic_0_00001") == {"asked": both, "notes": []}
    assert report_of("ann") == {"asked": set(), "notes": [NOT_ASKED.format("mouth, emotion")]}
    feeling = report_of("ann", emotion=str(judges_folder / "emotion_fan"))
    assert feeling == {"asked": {"emotion"}, "notes": [NOT_ASKED.format("mouth")]}
    assert report_of("ann", judges=str(judges_folder)) == {"asked": both, "notes": []}


def test_the_first_line_says_which_model_is_judged(commands, tmp_path, monkeypatch, capsys):
    weights = save_tiny_model(tmp_path / "tiny", [RESEARCH_ONLY])
    monkeypatch.setattr(judging, "SYNTHETIC_WEIGHTS", weights)
    main([*commands[1:], "--suite=paper", "--limit=1"])
    printed = capsys.readouterr()
    assert printed.err.startswith(f"{TOLD}\n")
    lines = printed.out.splitlines()
    assert lines[0] == f"# `{weights}` on 1 clip of 1 person"
    assert any(line.startswith("| generated |") for line in lines)
    assert any("Sync_c and Sync_d are not judged" in line for line in lines)


def test_a_second_run_judges_nothing(commands, tmp_path, monkeypatch):
    main([*commands, f"--out={tmp_path}"])
    first = json.loads((tmp_path / "report.json").read_text())
    monkeypatch.setattr(judging, "render_clip", lambda *_: pytest.fail("it renders again"))
    main([*commands, f"--out={tmp_path}"])
    second = json.loads((tmp_path / "report.json").read_text())
    assert first == second and first["speed"]["peak_memory_gb"] > 0  # of the run that judged
    kept = tmp_path / "clips"
    main([*commands, f"--out={tmp_path / 'other'}", f"--cache={kept}"])
    assert json.loads((tmp_path / "other" / "report.json").read_text())["rows"] == first["rows"]
    assert not (tmp_path / "other" / "clips").exists()
    for entry in kept.iterdir():
        entry.write_bytes(b"cut off")
    with pytest.raises(pytest.fail.Exception, match="renders again"):
        main([*commands, f"--out={tmp_path}"])


def test_another_model_is_judged_beside_the_same_rows(weights, judges, data, tmp_path, monkeypatch):
    renderer = Renderer.from_pretrained(weights)
    first = evaluate(renderer, judges, data, cache=tmp_path)["rows"]
    monkeypatch.setattr(judging, "judge_known", lambda *_: pytest.fail("they are judged again"))
    params = jax.tree.map(lambda x: 0.5 * x, renderer.params)
    other = Renderer(renderer.reta, params, renderer.morphable)
    second = evaluate(other, judges, data, cache=tmp_path)["rows"]
    assert first.pop("generated") != second.pop("generated")
    assert first == second


def test_a_recorded_protocol_refuses_other_data(commands, tmp_path, capsys):
    main([*commands, "--limit=1", f"--out={tmp_path}"])
    path = tmp_path / "protocol.yaml"
    with pytest.raises(SystemExit):
        main([f"--protocol={path}", "--limit=2"])
    assert "--limit: " in (said := capsys.readouterr().err) and "report on other clips" in said
    text = path.read_text()
    sha256 = read_protocol(path)[1]["sha256"]["data"]
    with pytest.raises(InputError, match="mouth judge: not what the protocol was run with"):
        check_same({"data": sha256}, {"data": sha256, "mouth judge": "new"})
    path.write_text(text.replace(sha256, "0" * 64))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([f"--protocol={path}"])
    assert "data: not what the protocol was run with" in capsys.readouterr().err


def test_the_command_refuses_in_a_sentence(weights, judges_folder, data, tmp_path, capsys):
    good = {"checkpoint": weights, "data": data, "judges": judges_folder, "split": "test"}
    good["out"] = tmp_path / "report"
    (tmp_path / "file").write_text("no protocol")
    for wrong, what in (
        ({"checkpoint": tmp_path / "missing"}, "there is no folder"),
        ({"judges": tmp_path / "missing"}, "no weights for landmark_net"),
        ({"data": tmp_path / "missing"}, "missing"),
        ({"split": "validation"}, "validation"),
        ({"limit": 0}, "nothing to judge"),
        ({"out": tmp_path / "file" / "inside", "limit": 1}, "cannot be made a folder"),
        ({"protocol": tmp_path / "file"}, "is no protocol"),
        ({"identity": "nowhere:nothing"}, "no identity network"),
        ({"identity": "a:b:c"}, "no MODULE:FUNCTION"),
        ({"videos": tmp_path}, "--videos"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([f"--{name}={value}" for name, value in (good | wrong).items()])
        printed = capsys.readouterr()
        assert caught.value.code == 2 and not printed.out
        (sentence,) = printed.err.splitlines()
        assert sentence.startswith("error: ") and what in sentence
        assert not (tmp_path / "report" / "report.json").exists()
