"""app.adapter: what its files do is compared with the weights' own changes, layer by layer."""

import contextlib
import io
import json
import re
import shutil

import pytest
import torch
from conftest import ROOT, call
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_lora import BASE, FACTORS, MINIATURE, find_module, kohya_file, locon_off, make_layers, make_pipeline, said
from transformers import CLIPTextConfig, CLIPTextModel

from app import adapter
from app.compare import find_adapters
from app.generate import Settings, set_strengths, with_strength
from tattoo_lora.diffusion.adapter_files import read_adapter
from tattoo_lora.diffusion.lora import kohya_path, load_lora

TO_Q = next(name for name in FACTORS if name.endswith("to_q"))
CONV = next(name for name in FACTORS if name.endswith("conv1"))


def edit(folder, *arguments):
    """What the command prints; files are in the folder, the models in the project."""
    paths = [folder / text if ".safetensors" in str(text) else text for text in arguments]
    return call(adapter, ROOT, *paths, "--profile", "embedded", "--out", folder / "out.safetensors")


def changes(path):
    """The change of each layer's weight, (out, in x kernel)."""
    read = read_adapter(path, MINIATURE().unet, MINIATURE().text_encoder)
    names = {key.rpartition(".lora_")[0] for key in read}
    return {name: read[f"{name}.lora_B.weight"].flatten(1) @ read[f"{name}.lora_A.weight"].flatten(1) for name in names}


def make_file(path, names=tuple(FACTORS), sign=1):
    layers = make_layers(MINIATURE(), names)
    save_file({k: sign * t if "lora_up" in k else t for k, t in kohya_file(layers).items()}, path, {"ss_tag": "ink"})
    return changes(path)


def error(made, whole):
    """The norm of what is missing in percent of the whole's."""
    missing = sum((whole[name] - made.get(name, 0)).square().sum() for name in whole)
    return 100 * (missing / sum(change.square().sum() for change in whole.values())).sqrt().item()


def test_a_resized_file_is_the_nearest_of_its_rank_and_its_error_is_said(tmp_path):
    whole = make_file(tmp_path / "a.safetensors")
    printed = edit(tmp_path, "resize", "a.safetensors", "--rank", 2)
    made = changes(tmp_path / "out.safetensors")
    assert made.keys() == whole.keys()
    for name, change in whole.items():
        u, values, vh = torch.linalg.svd(change, full_matrices=False)
        nearest = (u[:, :2] * values[:2]) @ vh[:2]
        assert (made[name] - nearest).abs().max() < 1e-5 * change.abs().max()
    assert f"7 layers of rank 2 to 2, error {error(made, whole):.2g}%; " in printed and error(made, whole) > 10
    kohya = changes(kohya_path(tmp_path / "out.safetensors"))
    assert all(torch.allclose(kohya[name], made[name], atol=1e-6) for name in whole)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata()["ss_tag"] == "ink" and file.metadata()["ss_network_dim"] == "2"


def test_by_energy_each_layer_keeps_as_many_ranks_as_it_needs_and_others_load_the_file(tmp_path):
    whole = make_file(tmp_path / "a.safetensors")
    edit(tmp_path, "resize", "a.safetensors", "--energy", 0.8)
    made = changes(tmp_path / "out.safetensors")
    ranks = {k: len(t) for k, t in load_file(tmp_path / "out.safetensors").items() if ".lora_A." in k}
    assert len(set(ranks.values())) > 1
    for name, change in whole.items():
        shares = torch.linalg.svdvals(change).square()
        needed = int((shares.cumsum(0) < 0.8 * shares.sum()).sum()) + 1
        assert ranks[f"{name.replace('text_encoder.', 'text_encoder.text_model.')}.lora_A.weight"] == needed
        assert error({name: made[name]}, {name: change}) <= 100 * 0.2**0.5 + 1e-3
    ours, theirs = make_pipeline(), make_pipeline()
    load_lora(ours, tmp_path / "out.safetensors")
    theirs.load_lora_weights(tmp_path, weight_name="out.safetensors")
    assert (said(ours) - said(MINIATURE())).abs().max() > 0.1
    assert torch.allclose(said(ours), said(theirs), atol=1e-4)


def test_merged_files_do_what_they_do_one_upon_the_other(tmp_path):
    one = make_file(tmp_path / "a.safetensors")
    other = make_file(tmp_path / "b.safetensors", [TO_Q, CONV], sign=-1)
    printed = edit(tmp_path, "merge", "a.safetensors:0.7", "b.safetensors:0.4")
    made = changes(tmp_path / "out.safetensors")
    assert made.keys() == one.keys() > other.keys() and "error 0%" in printed
    for name, change in one.items():
        expected = 0.7 * change + 0.4 * other.get(name, torch.zeros(1))
        assert (made[name] - expected).abs().max() < 1e-6 * max(1, expected.abs().max())


def test_several_files_with_strengths_draw_as_the_merged_file_does(tmp_path):
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    make_file(files[0])
    make_file(files[1], [TO_Q, CONV], sign=-1)
    edit(tmp_path, "merge", "a.safetensors:0.7", "b.safetensors:0.4")
    ours, merged = make_pipeline(), make_pipeline()
    load_lora(merged, tmp_path / "out.safetensors")
    adapters = find_adapters(f"{files[0]}:1.4+{files[1]}:0.8", [], tmp_path)
    settings = Settings("an owl", "", 7, 2, 4.0, 64, 64, BASE.id, None, "float32", tuple(adapters))
    load_lora(ours, *files)
    set_strengths(ours, with_strength(settings, 0.5))
    assert (said(merged) - said(MINIATURE())).abs().max() > 0.1
    assert torch.allclose(said(ours), said(merged), atol=1e-4)


def test_the_difference_of_two_models_is_found_again_as_a_lora(tmp_path):
    shutil.copytree(BASE.id, tmp_path / "other")
    pipeline, whole = make_pipeline(), {}
    for name, (down, up, _, _) in locon_off(make_layers(pipeline)).items():
        weight = find_module(pipeline, name).weight
        whole[name.replace("text_model.", "")] = up.flatten(1) @ down.flatten(1)
        weight.data += (up.flatten(1) @ down.flatten(1)).view_as(weight)
    unet = pipeline.unet
    unet.save_pretrained(tmp_path / "other/unet")
    pipeline.text_encoder.save_pretrained(tmp_path / "other/text_encoder")
    printed = edit(tmp_path, "extract", str(tmp_path / "other"), "--rank", 5)
    said_error = re.search(r": 6 layers of rank 5 to 5, error (\S+)%; ", printed)
    assert float(said_error[1]) < 1e-3
    made = changes(tmp_path / "out.safetensors")
    assert made.keys() == whole.keys() and error(made, whole) < 1e-3
    unet.conv_in.bias.data += 1  # no LoRA can hold this
    unet.save_pretrained(tmp_path / "other/unet")
    share = 100 * (len(unet.conv_in.bias) / sum(c.square().sum() for c in [*whole.values(), unet.conv_in.bias * 0 + 1]))
    (tmp_path / "out.safetensors").unlink()
    kohya_path(tmp_path / "out.safetensors").unlink()
    printed = edit(tmp_path, "extract", str(tmp_path / "other"), "--energy", 1)
    percent = f"{(share * 100) ** 0.5:.2g}%"
    assert f"error {percent} ({percent} in weights that are not in these layers)" in printed


def test_a_dora_of_kohyas_becomes_a_lora(tmp_path):
    tensors = kohya_file(make_layers(MINIATURE(), [TO_Q]))
    [up] = [key for key in tensors if key.endswith("lora_up.weight")]
    tensors[up.replace("lora_up.weight", "dora_scale")] = torch.full((len(tensors[up]), 1), 2.0)
    save_file(tensors, tmp_path / "a.safetensors")
    edit(tmp_path, "merge", "a.safetensors:0.5")
    whole, made = changes(tmp_path / "a.safetensors"), changes(tmp_path / "out.safetensors")
    assert torch.allclose(made[TO_Q], whole[TO_Q] / 2, atol=1e-6) and whole[TO_Q].abs().max() > 0.1


REFUSED = {
    "no size": (("resize", "a.safetensors"), "resize: give --rank or --energy"),
    "rank": (("resize", "a.safetensors", "--rank", 0), "--rank 0: allowed is 1 to 4096"),
    "energy": (("merge", "a.safetensors", "--energy", 2), "--energy 2: allowed is"),
    "strength": (("merge", "a.safetensors:99"), "a.safetensors: strength 99: allowed is"),
    "missing": (("merge", "b.safetensors"), "b.safetensors: no such adapter"),
    "DoRA": (
        ("merge", "dora.safetensors"),
        "dora.safetensors: a DoRA of PEFT's, which app.generate alone can use",
    ),
    "the base itself": (("extract", BASE.id, "--rank", 1), "base: the same as .*base in all layers of all"),
    "another model": (("extract", "other", "--rank", 1), "other: its UNet has other layers than that of .*base"),
    "another text": (("extract", "other text", "--rank", 1), "other: its text encoder has other layers than that of"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_done_is_refused_in_a_line(kind, tmp_path):
    arguments, message = REFUSED[kind]
    make_file(tmp_path / "a.safetensors", [TO_Q])
    down, up, _, _ = make_layers(MINIATURE(), [TO_Q])[TO_Q]
    dora = {"lora_A.weight": down, "lora_B.weight": up, "lora_magnitude_vector": torch.ones(len(up))}
    save_file({f"{TO_Q}.{part}": tensor for part, tensor in dora.items()}, tmp_path / "dora.safetensors")
    if "other" in arguments:
        config = json.loads((ROOT / BASE.id / "unet/config.json").read_text())
        UNet2DConditionModel.from_config(config | {"in_channels": 9}).save_pretrained(tmp_path / "other/unet")
    if "other text" in arguments:
        shutil.copytree(BASE.id, tmp_path / "other")
        config = CLIPTextConfig.from_pretrained(BASE.id, subfolder="text_encoder", num_hidden_layers=1)
        CLIPTextModel(config).save_pretrained(tmp_path / "other/text_encoder")
    arguments = [str(tmp_path / "other") if text in ("other", "other text") else text for text in arguments]
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as said_last:
        edit(tmp_path, *arguments)
    assert re.search(f"error: (.*/)?{message}", said_last.getvalue())
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_no_file_is_overwritten_and_the_new_one_is_named_as_such(name, tmp_path):
    make_file(tmp_path / "a.safetensors", [TO_Q])
    before = (tmp_path / "a.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        call(adapter, ROOT, "merge", tmp_path / "a.safetensors", "--out", tmp_path / name)
    assert (tmp_path / "a.safetensors").read_bytes() == before
