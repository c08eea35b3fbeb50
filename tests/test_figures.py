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

from data_pipeline.face_basis import load_face_basis
from data_pipeline.loader import EvaluationClip, evaluation_clips
from data_pipeline.prepare import prepare_synthetic
from data_pipeline.video import VideoWriter
from reta_jax import figures, plots
from reta_jax.figures import (
    colour_components,
    face_vertices,
    knows_coefficients,
    main,
    mask_stages,
)
from reta_jax.images import to_float
from reta_jax.inside import explained_by, level_facts, principal_components
from reta_jax.models.morphable import builtin_morphable
from reta_jax.pretrained.reta import load_reta
from reta_jax.renderer import Renderer
from reta_jax.report import Section, Table, html_page, markdown_page
from reta_jax.shown import load_clips, pick_moments, pick_shown, render_inside
from reta_jax.step import motion_mask
from tests.test_curves import robustness_report, write_lines
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
# Plots and pages
# ------------------------------------------------------------------------------------------------


def test_a_curve_of_one_point_is_seen():
    axis, *_ = plots.curves({"psnr": [(np.array([5.0]), np.array([20.0]))]}, []).axes
    assert axis.lines[0].get_marker() == "."


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
    text = markdown_page("T", [section], "Made by `command`.")
    assert text.startswith("# T\n\nMade by `command`.\n\n## A & B\n\none\n\ntwo <b>\n\n")
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
