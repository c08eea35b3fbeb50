"""Every published file to a folder of ours, and what is said about files that are none of them."""

import hashlib
import json
import re
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.io
from safetensors.numpy import save_file

from data_pipeline.errors import InputError
from reta_jax.pretrained import (
    bfm,
    edtalk,
    emotion_fan,
    ict_facekit,
    inception,
    lia,
    syncnet,
    vgg19,
)
from reta_jax.pretrained.layers import NOT_WEIGHTS
from reta_jax.pretrained.load import load
from reta_jax.pretrained.sources import SOURCES, import_source, read_source
from reta_jax.pretrained.table import apply_table
from reta_jax.weights import load_weights, save_weights
from tests.pretrained import states
from tests.pretrained.states import full_state
from tests.pretrained.torch_writer import parameter, save_legacy, save_zip


@pytest.fixture
def scratch():
    with tempfile.TemporaryDirectory() as folder:  # pytest would keep hundreds of megabytes
        yield Path(folder)


def equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


# Each writes a source's file as it is published, and gives the variables that it holds, by its
# table alone: that they fit the network is for the import to find out.


def write_edtalk(folder):
    gen, dis = full_state("edtalk_lip_pose_gen"), full_state("edtalk_dis")
    path = save_zip(folder / "EDTalk_lip_pose.pt", {"gen": gen, "dis": dis, "args": None})
    networks = edtalk.convert(gen) | {"discriminator": edtalk.convert_discriminator(dis)}
    return path, networks


def write_lia(folder):
    state = full_state("lia_gen")
    return save_zip(folder / "vox.pt", {"gen": state, "g_optim": {}}), lia.convert(state)


def write_wav2vec2(folder):
    state = states.voice_state()
    save_file(state, folder / "model.safetensors")
    states.write_json(folder, config=states.TINY_VOICE)
    return folder / "model.safetensors", None


def write_whisper(folder):
    state = states.whisper_state()
    save_file(state, folder / "model.safetensors")
    states.write_json(folder, config=states.TINY_WHISPER)
    return folder / "model.safetensors", None


def write_emotion_vit(folder):
    state = states.vit_state()
    save_file(state, folder / "model.safetensors")
    states.write_json(folder, config=states.TINY_VIT)
    return folder / "model.safetensors", None


def write_emotion_fan(folder):
    state = full_state("emotion_fan_mead8")
    wrapped = {f"module.{key}": parameter(tensor) for key, tensor in state.items()}
    path = save_zip(folder / "self_relation-attention_61_84.3655", {"state_dict": wrapped})
    return path, apply_table(state, emotion_fan.table(8), [NOT_WEIGHTS])


def write_sync_expert(folder):
    state = full_state("wav2lip_syncnet")
    path = save_zip(folder / "lipsync_expert.pth", {"state_dict": state, "optimizer": None})
    return path, apply_table(state, syncnet.EXPERT_TABLE, [NOT_WEIGHTS])


def write_syncnet_v2(folder):
    state = full_state("syncnet_v2")
    path = save_legacy(folder / "syncnet_v2.model", state)
    return path, apply_table(state, syncnet.V2_TABLE, [NOT_WEIGHTS])


def write_vgg19(folder):
    state = full_state("vgg19_torchvision", unread=r"classifier\..*")
    path = save_legacy(folder / "vgg19-dcbb9e9d.pth", state)
    return path, apply_table(state, vgg19.TABLE, vgg19.UNUSED)


def write_fid_inception(folder):
    state = full_state("fid_inception")
    path = save_zip(folder / "pt_inception-2015-12-05-6726825d.pth", state)
    return path, apply_table(state, inception.TABLE, [NOT_WEIGHTS, r"fc\..*"])


def write_bfm(folder):
    path = folder / "BFM_model_front.mat"
    scipy.io.savemat(path, states.prepared_bfm())
    return path, bfm.read(path).variables


def write_ict_facekit(folder):
    path = states.write_ict(folder / "FaceXModel")
    return path, ict_facekit.read(path).variables


@pytest.mark.parametrize("name", SOURCES)
def test_a_published_file_becomes_a_folder_that_loads(scratch, name):
    path, expected = globals()[f"write_{name}"](scratch)
    config = import_source(name, path, scratch / "out")
    loaded = load(config["kind"], str(scratch / "out"))
    if expected is None:  # in the hub's layout it loads as it is
        expected = load(config["kind"], str(scratch)).variables
    equal(loaded.variables, expected)

    written = json.loads((scratch / "out" / "config.json").read_text())
    assert loaded.config == written == {"format": 1} | config
    assert isinstance(written["fields"], dict)
    [record] = loaded.provenance
    assert record["source"] == name
    assert record["licence"] == SOURCES[name].licence
    assert record["commercial_use"] is SOURCES[name].is_commercial
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    assert record["files"] == [
        {
            "name": file.name,
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in files
    ]


def test_licences_that_forbid_commercial_use():
    forbidding = {name for name, source in SOURCES.items() if not source.is_commercial}
    assert forbidding == {"edtalk", "lia", "sync_expert", "bfm"}
    assert "CC BY-NC 4.0" in SOURCES["edtalk"].licence


@pytest.mark.parametrize(("name", "classes"), [("emotion_fan_7", 7), ("emotion_fan_mead8", 8)])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_emotion_fan_of_both_sizes(scratch, name, classes, prefix):
    state = full_state(name, unread=r"(layer|conv1|bn1).*")
    heads = {f"{prefix}{key}": tensor for key, tensor in state.items()}
    path = save_zip(scratch / "fan.pth", heads)
    with pytest.raises(InputError) as error:  # the trunk is a stand-in, the heads are as they were
        read_source("emotion_fan", path)
    assert "missing" not in str(error.value) and "pred_fc" not in str(error.value)
    assert "mis-shaped: conv1.weight" in str(error.value)
    assert len(emotion_fan.LABELS[:classes]) == len(state["pred_fc2.bias"])


def test_no_other_number_of_classes(scratch):
    path = save_zip(scratch / "fan.pth", {"module.pred_fc2.bias": np.zeros(6)})
    with pytest.raises(InputError, match=f"{path} is no Emotion-FAN.*7 or 8 classes"):
        read_source("emotion_fan", path)


# Files that are something else.


def keys_alone(name):
    return {key: np.zeros(1, np.float32) for key in full_state(name, unread=".*")}


@pytest.mark.parametrize(
    ("source", "given", "what"),
    [
        ("lia", "edtalk_gen", r"unexpected: dec\.fineadainresblock\.0"),
        ("edtalk", "lia_gen", r"unexpected: enc\.fc\.0\.weight.* and \d+ more"),
        ("edtalk", "edtalk_dis", r"missing: enc\.net_app\.convs\.0\.0\.weight"),
        ("sync_expert", "syncnet_v2", r"186 missing: face_encoder\.0.* and 181 more"),
        ("syncnet_v2", "wav2lip_syncnet", r"missing: netcnnlip\.0\.weight.*unexpected"),
        ("vgg19", "fid_inception", r"26 missing: features\.0\.weight"),
        ("emotion_vit", "wav2vec2_base_960h", r"missing: vit\.embeddings\.cls_token"),
        ("wav2vec2", "vit_face_expression", r"missing: .*unexpected: .*vit\.embeddings"),
        ("emotion_fan", "syncnet_v2", r"expected pred_fc2\.bias.*first keys are netcnnaud\.0"),
    ],
)
def test_another_networks_file_is_refused_by_its_keys(scratch, source, given, what):
    path = save_zip(scratch / "given.pt", keys_alone(given))
    states.write_json(scratch, config=states.TINY_VIT | states.TINY_VOICE)
    with pytest.raises(InputError) as error:
        import_source(source, path, scratch / "out")
    message = str(error.value)
    assert str(path) in message and re.search(what, message), message
    assert len(message) < 1500 and "\n" not in message
    assert not (scratch / "out").exists()


def test_one_tensor_of_another_variant_is_refused(scratch):
    state = full_state("syncnet_v2")
    state["netfclip.3.weight"] = np.zeros((512, 512), np.float32)  # of 512-d embeddings
    path = save_legacy(scratch / "other.model", state)
    with pytest.raises(
        InputError,
        match=r"1 mis-shaped: netfclip\.3\.weight is \(512, 512\), expected \(1024, 512\)",
    ):
        import_source("syncnet_v2", path, scratch / "out")
    assert not (scratch / "out").exists()


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_half_a_download_writes_nothing(scratch, save):
    whole = save(scratch / "half.model", full_state("syncnet_v2")).read_bytes()
    (scratch / "half.model").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"{scratch / 'half.model'} .*fetch it again"):
        import_source("syncnet_v2", scratch / "half.model", scratch / "out")
    assert [file.name for file in scratch.iterdir()] == ["half.model"]


def test_half_a_safetensors_file(scratch):
    path, _ = write_wav2vec2(scratch)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"{path} is no safetensors file, or not whole"):
        import_source("wav2vec2", path, scratch / "out")


def test_paths_that_lead_nowhere(scratch):
    with pytest.raises(InputError, match=f"{scratch / 'vox.pt'} does not exist.*wyhsirius/LIA"):
        import_source("lia", scratch / "vox.pt", scratch / "out")
    with pytest.raises(InputError, match=f"{scratch} is a folder: name the file in it"):
        import_source("syncnet_v2", scratch, scratch / "out")
    with pytest.raises(InputError, match="'flame' is no known source.*bfm"):
        import_source("flame", scratch, scratch / "out")


def test_a_hub_folder_stands_for_its_file(scratch):
    (scratch / "hub").mkdir()
    path, _ = write_wav2vec2(scratch / "hub")
    equal(read_source("wav2vec2", scratch / "hub"), read_source("wav2vec2", path))
    with pytest.raises(InputError, match="does not exist.*hf download facebook/wav2vec2-base-960h"):
        read_source("wav2vec2", scratch / "facebook" / "wav2vec2-base-960h")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(scratch, number):
    state = states.voice_state()
    state["wav2vec2.encoder.layer_norm.bias"][3] = number
    save_file(state, scratch / "model.safetensors")
    states.write_json(scratch, config=states.TINY_VOICE)
    told = "model.safetensors has numbers that are not finite in norm/bias: fetch it again"
    with pytest.raises(InputError, match=told):
        import_source("wav2vec2", scratch / "model.safetensors", scratch / "out")
    assert not (scratch / "out").exists()


def test_numbers_of_an_unknown_type(scratch):
    facts = {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}
    header = json.dumps({"weight": facts}).encode()
    path = scratch / "eight.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(InputError, match=f"{path} has numbers of type F8_E4M3: save it as F32"):
        read_source("vgg19", path)


def test_weights_of_another_kind_are_never_replaced(scratch):
    path, _ = write_bfm(scratch)
    save_weights(scratch / "out", {"a": np.zeros(1, np.float32)}, {"kind": "reta"})
    with pytest.raises(InputError, match="holds reta weights, which morphable ones would replace"):
        import_source("bfm", path, scratch / "out")
    assert load_weights(scratch / "out")[1]["kind"] == "reta"


def test_the_published_file_is_never_replaced_by_what_it_becomes(scratch):
    path, _ = write_bfm(scratch)
    import_source("bfm", path, scratch / "out")
    kept = path.rename(scratch / "out" / path.name)
    with pytest.raises(InputError, match=f"{kept} lies in {scratch / 'out'}, which is replaced"):
        import_source("bfm", kept, scratch / "out")
    assert kept.is_file()


def test_a_folder_of_other_files_is_never_replaced(scratch):
    path, _ = write_bfm(scratch)
    with pytest.raises(InputError, match=f"{scratch} holds other files"):
        import_source("bfm", path, scratch)
    assert [file.name for file in scratch.iterdir()] == [path.name]
