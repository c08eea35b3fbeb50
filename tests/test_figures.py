"""The figures: components against SVD, columns against their time, and a whole report."""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from data_pipeline.errors import InputError
from data_pipeline.face_basis import load_face_basis
from data_pipeline.loader import EvaluationClip, evaluation_clips
from data_pipeline.prepare import prepare_synthetic
from data_pipeline.video import VideoWriter
from reta_jax import ablate, figures, plots
from reta_jax.curves import (
    DOWN,
    UP,
    ablation_sections,
    evaluation_sections,
    head_of,
    read_evaluation,
    read_metrics,
    robustness_sections,
    title_of,
    training_sections,
)
from reta_jax.figures import (
    colour_components,
    face_vertices,
    knows_coefficients,
    main,
    mask_stages,
)
from reta_jax.images import to_float
from reta_jax.inside import explained_by, level_facts, principal_components
from reta_jax.metrics.tables import UNITS
from reta_jax.models.morphable import builtin_morphable
from reta_jax.pretrained.reta import load_reta
from reta_jax.render import Renderer
from reta_jax.report import Section, Table, html_page, markdown_page
from reta_jax.shown import load_clips, pick_moments, pick_shown, render_inside
from reta_jax.step import motion_mask
from tests.tiny import save_tiny_model

ROOT = Path(__file__).parents[1]

# ------------------------------------------------------------------------------------------------
# Numbers
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 300), (300, 40)], ids=["wide", "tall"])
def test_components_are_those_of_the_singular_values(shape):
    rng = np.random.default_rng(0)
    mixture = rng.normal(size=(shape[0], 3)) * [9, 5, 2] @ rng.normal(size=(3, shape[1]))
    samples = mixture + 0.1 * rng.normal(size=shape) + 7
    found = principal_components(samples, 3)
    _, values, directions = np.linalg.svd(samples - samples.mean(0), full_matrices=False)
    np.testing.assert_allclose(found.shares, (values**2 / (values**2).sum())[:3], rtol=1e-6)
    np.testing.assert_allclose(abs(found.directions @ directions[:3].T), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(
        found.scores, (samples - samples.mean(0)) @ found.directions.T, atol=1e-8
    )
    largest = abs(found.directions).argmax(1)
    assert (found.directions[range(3), largest] > 0).all()


def test_what_has_one_direction_has_one_component():
    samples = np.outer(np.arange(20.0), np.ones(50))
    found = principal_components(samples, 3)
    np.testing.assert_allclose(found.shares, [1, 0, 0], atol=1e-12)
    assert (found.directions[1:] == 0).all() and (found.scores[:, 1:] == 0).all()
    still = principal_components(np.ones((20, 50)), 3)
    assert (still.shares == 0).all() and (still.scores == 0).all()


def test_components_of_a_part_of_the_frames_fit_all(monkeypatch):
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(60, 1)) @ rng.normal(size=(1, 500))
    samples += 0.01 * rng.normal(size=(60, 500))
    whole = principal_components(samples, 1)
    monkeypatch.setattr("reta_jax.inside.FIT_TO", 20)
    part = principal_components(samples, 1)
    assert not np.array_equal(part.directions, whole.directions)
    assert len(part.scores) == 60
    assert abs(np.corrcoef(whole.scores[:, 0], part.scores[:, 0])[0, 1]) > 0.999


def made_up_features():
    """Eight clips of two people: the mouth moves channel 0, weaker emotion channel 1."""
    rng = np.random.default_rng(2)
    clip = np.repeat(np.arange(8), 30)
    identity = np.where(clip < 4, "one", "two")
    emotion = clip % 2
    gap = np.abs(np.sin(np.arange(len(clip)) / 3))
    features = 0.01 * rng.normal(size=(len(clip), 6))
    features[:, 0] += 5 * gap
    features[:, 1] += emotion + 0.3 * rng.normal(size=len(clip))
    features += 50 * (identity == "two")[:, None]  # people differ most
    return features, clip, identity, emotion, gap


def test_components_are_told_mouth_from_emotion():
    facts = level_facts(*made_up_features())
    assert facts.shares[:2].sum() > 0.99 and facts.shares[0] > facts.shares[1]
    assert facts.mouth[0] > 0.99 > 0.3 > facts.mouth[1]
    assert facts.emotion[1] > 0.98 and facts.emotion[0] < 0.6


def test_unknown_mouths_and_emotions_are_not_told():
    features, clip, identity, emotion, gap = made_up_features()
    facts = level_facts(features, clip, identity, np.full(len(clip), -1), np.full(len(gap), np.nan))
    assert np.isnan(facts.mouth).all() and np.isnan(facts.emotion).all()


def test_labels_explain_what_they_mean_and_no_more():
    rng = np.random.default_rng(3)
    labels, blocks = np.tile(np.arange(8), 25), np.repeat(np.arange(25), 8)
    noise, people = rng.normal(size=200), 100.0 * blocks
    assert explained_by(people + labels, labels, blocks) > 0.999
    assert explained_by(people + noise, labels, blocks) < 0.08
    assert 0.4 < explained_by(people + labels / labels.std() + noise, labels, blocks) < 0.6
    assert np.isnan(explained_by(noise[:8], labels[:8], blocks[:8]))  # a label a value
    assert np.isnan(explained_by(noise, np.zeros(200, int), blocks))  # one label
    assert np.isnan(explained_by(noise, np.full(200, -1), blocks))
    assert explained_by(people, labels, blocks) == 0


def test_equal_features_have_equal_colours():
    rng = np.random.default_rng(4)
    one, two = rng.normal(size=(2, 8, 8, 5))
    two[:4] = one[4:]
    first, second = colour_components([one, two])
    assert first.shape == (8, 8, 3) and first.dtype == np.uint8
    assert (second[:4] == first[4:]).all() and np.ptp(first) > 200


# ------------------------------------------------------------------------------------------------
# Which clips and moments
# ------------------------------------------------------------------------------------------------


def mouth(gap, emotion=0):
    """A clip as far as choosing looks: eyes one apart, inner lips `gap` apart."""
    points = np.zeros((len(gap), 68, 2), np.float32)
    points[:, 45, 0], points[:, 66, 1] = 1, gap
    nothing = dict.fromkeys(EvaluationClip._fields)
    return EvaluationClip(**nothing | {"landmarks": points, "emotion": emotion})


def test_moments_are_the_mouths_wide_and_shut_in_turn():
    gap = np.full(40, 0.5)
    gap[[3, 12, 27, 31]] = 1, 0, 1, 0
    assert pick_moments(gap, 4) == [3, 12, 27, 31]
    assert pick_moments(np.full(40, np.nan), 4) == [5, 15, 25, 35]
    assert pick_moments(gap[:2], 8) == [0, 1]


def test_the_liveliest_clip_of_each_emotion_is_shown_first():
    t = np.arange(20)
    clips = [mouth(a * np.abs(np.sin(t)), e) for a, e in ((1, 0), (4, 0), (3, 0), (2, 5))]
    assert pick_shown(clips, 2) == [1, 3]
    assert pick_shown(clips, 3) == [1, 3, 2]
    assert pick_shown([mouth(0 * t)], 2) == [0]


def test_spans_of_equal_sounds():
    assert plots.spans(["sil", "a", "a", "b"]) == [("sil", 0, 1), ("a", 1, 3), ("b", 3, 4)]
    assert plots.spans([]) == []


def test_columns_are_tied_to_their_sound():
    """A click in each of the chosen frames' 40 ms lies under the red stretch of its column."""
    moments, waveform = [2, 7, 9], np.zeros(12 * 640, np.float32)
    for moment in moments:
        waveform[moment * 640 + 320] = 1
    tile = np.zeros((4, 4, 3), np.uint8)
    sounds = ["sil"] * 6 + ["aa"] * 6
    figure = plots.with_voice(
        [[tile] * 3, [tile, None, tile]], ["a", "b"], moments, waveform, sounds
    )
    figure.draw_without_rendering()
    voice, *tiles = figure.axes
    assert [axis.get_title() for axis in tiles[:3]] == ["0.08 s  sil", "0.28 s  aa", "0.36 s  aa"]
    seconds, sound = voice.lines[0].get_data()
    clicks = seconds[sound > 0]
    stretches = [patch.get_extents() for patch in voice.patches]
    to_seconds = voice.transData.inverted()
    for click, patch, moment in zip(clicks, stretches, moments, strict=True):
        (start, _), (end, _) = to_seconds.transform([patch.p0, patch.p1])
        assert start < click < end and end - start == pytest.approx(0.04)
        assert start == pytest.approx(moment / 25)
    ties = [artist for artist in figure.artists if hasattr(artist, "xy2")]
    assert [tie.xy2[0] for tie in ties] == pytest.approx(clicks, abs=1e-3)


# ------------------------------------------------------------------------------------------------
# A model
# ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(folder, identities=2, clips_per_identity=2, seconds=0.6, size=32, workers=1)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def model(weights):
    return load_reta(weights)


@pytest.fixture(scope="module")
def clips(data):
    return load_clips(data, "test", 32, limit=2, frames=12)


@pytest.fixture(scope="module")
def shown(model, clips):
    clip, sounds = clips[0]
    return render_inside(model, clip, sounds, [0, 9, 11])


def test_clips_are_cut_with_their_sound(data, clips):
    whole = next(iter(evaluation_clips(data, "test", 32)))
    clip, sounds = clips[0]
    assert len(clips) == 2 and len(clip.frames) == len(clip.landmarks) == len(sounds) == 12
    assert len(clip.audio) == 12 * 640 and (clip.audio == whole.audio[: 12 * 640]).all()
    assert len(whole.frames) == 15


def test_inside_is_what_the_renderer_does(weights, clips, shown):
    clip, _ = clips[0]
    rendered = Renderer.from_pretrained(weights).render(clip.portrait, clip.audio)
    np.testing.assert_allclose(shown.frames.astype(int), rendered, atol=1)
    assert len(shown.inside) == 3
    for inside, moment in zip(shown.inside, shown.moments, strict=True):
        assert (inside.frames == shown.frames[moment]).all()
        for level, size in enumerate((8, 16, 32)):
            x = inside.features[level]
            assert x.shape[:2] == inside.flows[level].shape[:2] == (size, size)
            pooled = x if size <= 16 else x.reshape(16, 2, 16, 2, -1).mean((1, 3))
            np.testing.assert_allclose(
                shown.pooled[level][moment], pooled.ravel(), rtol=1e-4, atol=1e-4
            )
            assert shown.mean_flows[level].shape == (size, size, 2)
    assert shown.p_exp.shape == (12, 64)


def test_features_are_those_that_the_colours_are_read_off(model, shown):
    """to_rgb of every level's features, upsampled and added, is the frame in the model's light."""
    from reta_jax.models.generator import ToRGB
    from reta_jax.models.reta import gain_to_light
    from reta_jax.ops.blur import upsample

    assert model.config.model.rgb_from == "blended"
    frame = None
    for x in shown.inside[1].features:
        params = model.params["generator"][f"level_{x.shape[0]}"]["to_rgb"]
        step = ToRGB().apply({"params": params}, jnp.asarray(x[None]))
        frame = step if frame is None else step + upsample(frame)
    portrait = to_float(jnp.asarray(shown.clip.portrait))[None]
    gain = np.asarray(gain_to_light(portrait, model.reta.light))[0]
    uint8 = np.clip(np.round((np.asarray(frame[0]) + 1) / gain * 127.5), 0, 255)
    np.testing.assert_allclose(uint8, shown.inside[1].frames, atol=1)


def test_the_last_stage_is_the_mask_of_training(model, clips, monkeypatch):
    traced = []
    monkeypatch.setattr(figures, "motion_mask", lambda *of: traced.append(of) or motion_mask(*of))
    frames, stages_of = clips[0][0].frames[:5], mask_stages(model)
    stages_of(clips[1][0].frames[:5])
    mask = stages_of(frames).mask
    assert len(traced) == 1
    real = to_float(jnp.asarray(frames))[None]
    expected = jax.jit(functools.partial(motion_mask, model.config, model.reta))(model.params, real)
    np.testing.assert_array_equal(mask, expected.mask[0])


def test_a_mesh_picture_shows_the_face(clips):
    morphable, basis = builtin_morphable(8), load_face_basis()
    face = face_vertices(morphable)
    assert len(face) < 0.8 * len(basis.mean)
    lips, neck = basis.mean[basis.lip_vertices], basis.mean[:, 1].min()
    assert (face.min(0) <= lips.min(0)).all() and face[:, 1].min() > neck + 3  # cm
    assert knows_coefficients(morphable, clips[0][0])
    unknown = clips[0][0]._replace(coefficients=np.zeros((12, 64), np.float32))
    assert not knows_coefficients(morphable, unknown)


# ------------------------------------------------------------------------------------------------
# Files
# ------------------------------------------------------------------------------------------------


def write_lines(path, lines):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return path


def test_metrics_are_read_by_stage_and_step(tmp_path):
    lines = [
        {"step": 1, "total": 3.0},
        {"step": 3, "total": 9.0},
        {"step": 2, "total": 2.0},  # resumed from an earlier checkpoint
        {"step": 3, "total": 1.0},
        {"stage": "next", "step": 1, "l1": 0.5},
        '{"stage": "next", "st',  # being written
    ]
    first, second = read_metrics(write_lines(tmp_path / "metrics.jsonl", lines))
    assert [line["total"] for line in first.lines] == [3.0, 2.0, 1.0]
    assert second.name == "next" and second.lines == [lines[4]]


@pytest.mark.parametrize(
    "lines", [["nothing", {"step": 1}], [{"total": 1.0}, {"step": 1}], ["[1]", {"step": 1}], [""]]
)
def test_broken_metrics_are_refused(tmp_path, lines):
    path = write_lines(tmp_path / "metrics.jsonl", lines)
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_metrics(path)
    path.write_bytes(b"\xff\xfe\x00events")
    with pytest.raises(InputError, match=f"{re.escape(str(path))} is no text"):
        read_metrics(path)


def test_times_and_metrics_are_no_losses(tmp_path):
    """What a lap adds to a step's line is no figure of the model; what a preview adds, no loss."""
    lap = {"clips_per_second": 9.0, "step_seconds": 0.5, "data_wait_share": 0.1, "eta_minutes": 2.0,
           "device_peak_gb": 3.0, "own_seconds/0": 0.1, "own_seconds/11": 0.1,
           "data_seconds/0": 0.1, "data_seconds/11": 0.1}  # fmt: skip
    lines = [
        {"step": 2, "l1": 0.5, "total": 3.0, "held_out/psnr": 20.0, "held_out/ssim": 0.5} | lap,
        {"step": 4, "l1": 0.4, "total": 2.0} | lap,
        {"stage": "next", "step": 2, "l1": 0.3, "total": 1.0, "held_out/psnr": 21.0} | lap,
        {"stage": "next", "step": 3, "l1": 0.2, "total": 0.5} | lap,
    ]
    path = write_lines(tmp_path / "metrics.jsonl", lines)
    losses, metrics = training_sections(tmp_path, path)
    assert losses.table.rows == [["total", "0.5"], ["l1", "0.2"]]
    assert metrics.title == "Metrics on held-out clips"
    assert metrics.table.rows == [["psnr ↑", "21.000", "6"], ["ssim ↑", "0.500", "2"]]
    assert [picture.file for picture in metrics.pictures] == ["held_out.png"]
    assert (tmp_path / "held_out.png").stat().st_size > 5_000
    write_lines(path, [{"step": 1, "total": 1.0}])
    assert [section.title for section in training_sections(tmp_path, path)] == ["Training"]
    write_lines(path, [{"step": 1} | lap])
    with pytest.raises(InputError, match="no losses"):
        training_sections(tmp_path, path)


def test_a_curve_of_one_point_is_seen():
    axis, *_ = plots.curves({"psnr": [(np.array([5.0]), np.array([20.0]))]}, []).axes
    assert axis.lines[0].get_marker() == "."


def test_evaluations_are_read_as_they_come(tmp_path):
    row = {"psnr": 20.0, "note": "x", "missing": float("nan"), "good": True}
    (tmp_path / "report.json").write_text(json.dumps({"rows": {"generated": row}, "new": []}))
    for path in (tmp_path, tmp_path / "report.json"):
        assert read_evaluation(path)["rows"] == {"generated": {"psnr": 20.0}}
    wrong = '{"rows": {"generated": {"psnr": 20}}, "by_clip": [1]}'
    for text in ("{}", "[]", "{", '{"rows": {"generated": {}}}', '{"rows": [1]}', wrong):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(InputError, match="report.json"):
            read_evaluation(tmp_path)
    row = {"rows": {"generated": {"psnr": 20.0}}}
    for name, value in (("emotions_named", {"generated": {}}), ("kid_by_emotion", [1])):
        (tmp_path / "report.json").write_text(json.dumps(row | {name: value}))
        with pytest.raises(InputError, match="is no report of reta_jax.evaluate"):
            evaluation_sections(tmp_path, tmp_path)


def test_evaluations_are_shown_whole_by_group_and_with_what_is_against_them(tmp_path):
    report = {
        "clips": 3,
        "rows": {"generated": {"psnr": 20.0, "sync_d": 7.5}},
        "counts": {"generated": {"sync_d": 2}},
        "by_emotion": {"happy": {"clips": 2.0, "psnr": 21.0}, "sad": {"clips": 1.0, "sync_d": 8.0}},
        "by_identity": {},
        "by_clip": {"one": {"psnr": 22.0, "emotion_named": 4.0}},
        "objections": ["the judge taught the model", "it knows the people"],
        "emotions_named": {
            "generated": {
                "counts": {"happy": {"happy": 2, "sad": 0}, "sad": {"happy": 1, "sad": 0}},
                "chance": 2 / 3,
            }
        },
        "kid_by_emotion": {"happy": {"clips": 2, "kid": 1.5, "interval": [1.0, 2.0]}},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    whole, emotions, clips, named, kid = evaluation_sections(tmp_path, tmp_path)
    bold = ["**The judge taught the model.**", "**It knows the people.**"]
    assert whole.text.split("\n\n")[1:] == bold
    assert whole.table == Table(
        ["", "psnr ↑", "sync d ↓"], [["generated", "20.000", "7.500 (n = 2)"]]
    )
    assert emotions.title == "Evaluation by emotion"
    assert emotions.table.rows == [["happy", "2", "21.000", "–"], ["sad", "1", "–", "8.000"]]
    assert clips.title == "Evaluation by clip"
    assert clips.table.rows == [["one", "22.000", "happy"]]
    assert named.table == Table(["", "happy", "sad"], [["happy", "2", "0"], ["sad", "1", "0"]])
    assert "0.667" in named.text
    assert kid.table == Table(["", "clips", "kid ↓"], [["happy", "2", "1.500 [1.000, 2.000]"]])


def test_figures_point_to_what_is_better_and_state_their_unit():
    assert set(UP) | set(DOWN) <= set(UNITS) and not set(UP) & set(DOWN)
    assert head_of("lip_vertex_error_mm2") == "lip vertex error mm2 ↓"
    assert head_of("sync_c_whole") == "sync c whole ↑"
    assert head_of("blinks_per_minute") == "blinks per minute"  # the truth has some
    assert head_of("ACC_e", "emotion_accuracy") == "ACC_e ↑"
    assert title_of("psnr") == f"psnr ↑\n{UNITS['psnr']}"
    assert title_of("new_figure") == "new figure"


def runs(*psnr):
    rest = {"SSIM": 0.5, "Sync_c": 4.0, "ACC_e": 30.0, "Mouth": 0.75}
    return {seed: {"PSNR": value} | rest for seed, value in enumerate(psnr)}


def test_ablations_stand_beside_the_papers(tmp_path, monkeypatch):
    """As reta_jax.ablate writes them."""
    study = {
        "steps": 300, "size": 64, "objections": ["the judge knows the people"],
        "figures": {"full": runs(20.0, 22.0), "no_style": runs(15.0, 17.0), "no_tvm": runs(19.0)},
        "known": {"still portrait": runs(12.0)[0], "truth": {"PSNR": 100.0}},
    }  # fmt: skip
    ablate.write_tables(tmp_path, study)
    bars, drawn = plots.metric_bars, []
    monkeypatch.setattr(plots, "metric_bars", lambda *of: drawn.append(bars(*of)) or drawn[-1])
    rows, claims = ablation_sections(tmp_path, tmp_path)
    assert rows.table.head[:4] == ["row", "seeds", "PSNR ↑", "SSIM ↑"]
    assert [row[:3] for row in rows.table.rows] == [
        ["full model", "2", "21.000 ± 1.414 (22.19)"],
        ["B.2 w/o f_STY", "2", "16.000 ± 1.414 (21.63)"],
        ["C.2 w/o TVM", "1", "19.000 (21.93)"],
        ["still portrait", "", "12.000"],
        ["truth", "", "100.000"],
    ]
    assert rows.table.rows[0][-1] == "0.750 ± 0.000" and rows.table.rows[-1][-1] == "–"
    assert rows.text.endswith("\n\n**The judge knows the people.**")
    assert ["B.2 w/o f_STY: PSNR falls", "-5.000 ± 0.000", "reproduced"] in claims.table.rows
    psnr = drawn[0].axes[0]
    assert [bar.get_width() for bar in psnr.patches] == [21, 16, 19, 12]
    assert list(psnr.lines[0].get_xdata()) == pytest.approx([21 - 2**0.5, 21 + 2**0.5])


def robustness_report():
    rows = {"as filmed": {"mouth_correlation": 0.6, "psnr": 20.0}, "grain": {"psnr": 19.0}}
    return {
        "rows": rows | {"still portrait": {"psnr": 21.0}},
        "counts": {"as filmed": {"mouth_correlation": 12}, "grain": {}},
        "intervals": {
            "as filmed": {"mouth_correlation": [0.5, 0.7]},
            "grain": {"psnr": [18.0, 20.0]},
        },
        "own_voice_wins": 0.92,
        "own_voice_clips": 13,
        "by_identity": {"anna": {"clips": 3.0, "psnr": 20.5}},
    }


def test_disturbed_inputs_have_their_intervals(tmp_path):
    (tmp_path / "robustness.json").write_text(json.dumps(robustness_report()))
    conditions, people = robustness_sections(tmp_path, tmp_path / "robustness.json")
    assert conditions.table == Table(
        ["", "mouth correlation ↑", "psnr ↑"],
        [
            ["as filmed", "0.600 [0.500, 0.700] (n = 12)", "20.000"],
            ["grain", "–", "19.000 [18.000, 20.000]"],
            ["still portrait", "–", "21.000"],
        ],
    )
    assert conditions.text.startswith("92 % of 13 clips follow their own voice")
    assert (tmp_path / conditions.pictures[0].file).stat().st_size > 5_000
    assert people.table.rows == [["anna", "3", "20.500"]]


@pytest.mark.parametrize("sections", [ablation_sections, robustness_sections])
@pytest.mark.parametrize(
    "text", ["{}", "[]", "{", '{"figures": {"new_row": {}}}', '{"rows": {"as filmed": 1}}']
)
def test_other_files_are_refused(tmp_path, sections, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match="x.json is no"):
        sections(tmp_path, tmp_path / "x.json")
    with pytest.raises(InputError, match=r"cannot read .*(ablation|robustness)\.json"):
        sections(tmp_path, tmp_path)


def test_bars_show_intervals_and_leave_perfection_out():
    rows = {
        "generated": {"psnr": 20.0, "r": -0.1},
        "still": {"psnr": 22.0},
        "truth": {"psnr": 100.0},
    }
    intervals = {"generated": {"psnr": [18.0, 25.0], "r": [-0.3, 0.2]}}
    titles = {"psnr": "psnr ↑\ndB", "r": "r"}
    psnr, r = plots.metric_bars(rows, intervals, titles).axes
    assert [axis.get_title() for axis in (psnr, r)] == ["psnr ↑\ndB", "r"]
    assert 25 < psnr.get_xlim()[1] < 50 and r.get_xlim()[0] == pytest.approx(-0.3)
    assert [bar.get_width() for bar in psnr.patches] == [20, 22, 100]
    assert [list(line.get_xdata()) for line in psnr.lines] == [[18, 25]]
    assert [text.get_text().strip() for text in psnr.texts] == ["20", "22", "100"]


def test_pages_hold_whatever_is_written():
    table = Table(["x", "y|z"], [["<1>", "2"]])
    section = Section("A & B", "one\n\ntwo <b>\n\n**three <c>**", [], table)
    page = html_page("T", "command --x '<y>'", [section])
    assert "<p>one</p>\n<p>two &lt;b&gt;</p>\n<p><strong>three &lt;c&gt;</strong></p>" in page
    assert "<td>&lt;1&gt;</td><td>2</td>" in page
    text = markdown_page("T", "command", [section])
    assert "| x | y\\|z |\n| --- | ---: |\n| <1> | 2 |" in text


# ------------------------------------------------------------------------------------------------
# The command
# ------------------------------------------------------------------------------------------------


def test_the_command_leaves_a_report(weights, data, clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plots, "DPI", 40)
    other = tmp_path / "other"
    other.mkdir()
    clip, _ = clips[0]
    with VideoWriter(other / f"{clip.clip}.mp4", 32, clip.audio) as video:
        video.write(clip.frames[:4])  # shorter than the clip
    evaluation = {"clips": 1, "rows": {"generated": {"psnr": 20.0}}}
    (tmp_path / "report.json").write_text(json.dumps(evaluation))
    metrics = [{"step": 1, "total": 3.0}, {"step": 2, "total": 2.0}]
    write_lines(tmp_path / "metrics.jsonl", metrics)
    out = tmp_path / "report"
    main(
        [
            f"--checkpoint={weights}", f"--data={data}", "--frames=12", f"--videos=other={other}",
            f"--metrics={tmp_path / 'metrics.jsonl'}", f"--evaluation={tmp_path}", f"--out={out}",
        ]
    )  # fmt: skip
    printed = capsys.readouterr().out.splitlines()
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {
        "fig2_levels.png", "fig2_components.png", "fig2_mouth.png", "fig3_1.png", "fig3_2.png",
        "fig5_mask.png", "fig7_mesh.png", "flow_and_masks.png", "losses.png", "metrics.png",
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == pictures | {"index.html", "README.md"}
    assert printed[-1] == str(out / "index.html") and len(printed) == len(pictures) + 1
    page, text = (out / "index.html").read_text(), (out / "README.md").read_text()
    assert set(re.findall(r'src="([^"]+)"', page)) == pictures
    assert set(re.findall(r"\]\(([^)]+)\)", text)) == pictures
    assert "/" not in "".join(re.findall(r'src="([^"]+)"', page))  # it can be moved


def test_figures_of_files_need_no_model(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "load_reta", None)
    monkeypatch.setattr(plots, "DPI", 40)
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "total": 3.0, "held_out/psnr": 20.0}])
    evaluation = {"rows": {"generated": {"psnr": 20.0}}}
    (tmp_path / "report.json").write_text(json.dumps(evaluation))
    (tmp_path / "robustness.json").write_text(json.dumps(robustness_report()))
    out = tmp_path / "new" / "report"
    main(
        [
            f"--metrics={tmp_path / 'metrics.jsonl'}", f"--evaluation={tmp_path}",
            f"--ablation={ROOT / 'docs/ablation.json'}", f"--robustness={tmp_path}", f"--out={out}",
        ]
    )  # fmt: skip
    pictures = ["losses.png", "held_out.png", "metrics.png", "ablation.png", "robustness.png"]
    assert {path.name for path in out.iterdir()} == {*pictures, "index.html", "README.md"}
    assert re.findall(r'src="([^"]+)"', (out / "index.html").read_text()) == pictures


def test_the_command_refuses_in_a_sentence(weights, data, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    good = {"checkpoint": weights, "data": data, "out": tmp_path / "report", "frames": 5}
    for wrong, what in (
        ({"data": None}, "nothing to show"),
        ({"data": tmp_path / "missing"}, "missing"),
        ({"checkpoint": tmp_path / "missing"}, "there is no folder"),
        ({"split": "validation"}, "validation"),
        ({"limit": 0}, "--limit 0"),
        ({"frames": 0}, "--frames 0"),
        ({"videos": "other"}, "NAME=DIR"),
        ({"videos": f"other={tmp_path / 'empty'}"}, "no mp4 in"),
        ({"videos": f"other={tmp_path}", "data": None, "metrics": "x"}, "--videos needs --data"),
        ({"metrics": tmp_path / "missing"}, "cannot read"),
        ({"evaluation": tmp_path / "empty"}, "cannot read"),
        ({"ablation": tmp_path / "empty"}, "cannot read"),
        ({"robustness": tmp_path / "file"}, "is no JSON"),
        ({"out": tmp_path / "file" / "report"}, "cannot be made a folder"),
    ):
        values = {name: value for name, value in (good | wrong).items() if value is not None}
        with pytest.raises(SystemExit) as caught:
            main([f"--{name}={value}" for name, value in values.items()])
        printed = capsys.readouterr()
        assert caught.value.code == 2 and not printed.out
        sentence = printed.err.splitlines()[-1]
        assert sentence.startswith("error: ") and what in sentence, wrong
        assert not (tmp_path / "report" / "index.html").exists()


def test_a_grid_shows_every_picture_and_leaves_blanks():
    tile = np.full((4, 4, 3), 9, np.uint8)
    figure = plots.picture_grid([[tile, None], [tile, tile]], ["a", "b"], ["one", "two"])
    assert isinstance(figure, Figure)
    assert [len(axis.images) for axis in figure.axes] == [1, 0, 1, 1]
    assert [axis.get_title() for axis in figure.axes[:2]] == ["a", "b"]
    assert (np.asarray(figure.axes[0].images[0].get_array()) == 9).all()
