"""Captioners of variants' own: transformers' classes in miniature, with random weights."""

import shutil

import pytest
import torch
import transformers
from conftest import ROOT, call
from dvc.repo import Repo
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import BartConfig, Florence2Config, Florence2Processor, Florence2VisionConfig, PreTrainedTokenizerFast

from app.ahead import check_models
from stages import caption
from tattoo_lora.data.captions import write_user_captions
from tattoo_lora.data.drawings import Drawing, write_drawings
from tattoo_lora.diffusion.captioners import caption_images, load_captioner
from tattoo_lora.diffusion.images import squared
from tattoo_lora.errors import UserError
from tattoo_lora.params import CaptionerParams, Model, load_params, load_profile

SIDE = 32
QWEN = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>"
    "{% endfor %}"
)


def make_tokenizer(special, **options):
    """One that has a token for each letter."""
    words = [*special, *"abcdefghijklmnopqrstuvwxyzADTNOPIW<>.,?_ "]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **options)


def make_florence2(folder):
    tokenizer = make_tokenizer(
        ["<s>", "<pad>", "</s>", "<unk>", "<image>"],
        **{"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"},
        extra_special_tokens={"image_token": "<image>"},
    )
    text = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    text |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "max_position_embeddings": 256}
    vision = Florence2VisionConfig(
        depths=(1, 1),
        patch_size=(7, 3),
        patch_stride=(4, 2),
        patch_padding=(3, 1),
        patch_prenorm=(False, True),
        embed_dim=(8, 16),
        num_heads=(2, 2),
        num_groups=(2, 2),
        window_size=4,
        projection_dim=16,
    )
    image_processor = transformers.CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    image_processor.image_seq_length = (SIDE // 8) ** 2 + 1
    Florence2Processor(image_processor, tokenizer).save_pretrained(folder)
    text = BartConfig(vocab_size=len(tokenizer), **text)
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    return Florence2Config(text_config=text, vision_config=vision, image_token_id=image_token_id)


def make_qwen(folder, config_class, **vision):
    special = ["<unk>", "<|endoftext|>", "<|im_end|>", *QWEN.values()]
    tokenizer = make_tokenizer(special, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": special[3:]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    image_processor = transformers.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=16**2, max_pixels=SIDE**2)
    image_processor.save_pretrained(folder)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in QWEN.items()}
    return config_class(text_config=text, vision_config=vision | {"depth": 1, "num_heads": 2, "patch_size": 8}, **ids)


MAKERS = {
    "florence2": make_florence2,
    "qwen2_vl": lambda folder: make_qwen(folder, transformers.Qwen2VLConfig, embed_dim=16, hidden_size=16, mlp_ratio=1),
    "qwen2_5_vl": lambda folder: make_qwen(
        folder,
        transformers.Qwen2_5_VLConfig,
        hidden_size=16,
        out_hidden_size=16,
        intermediate_size=16,
        window_size=32,
        fullatt_block_indexes=[0],
    ),
}


@pytest.fixture(scope="module", params=MAKERS)
def captioner(request, tmp_path_factory):
    """A folder with a model of the kind, whose random weights are large enough that its words depend on the picture."""
    folder = tmp_path_factory.mktemp(request.param)
    config = MAKERS[request.param](folder)
    torch.manual_seed(1)
    model = getattr(transformers, config.__class__.__name__.replace("Config", "ForConditionalGeneration"))(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    return folder


def pictures():
    black, half = Image.new("RGB", (SIDE, SIDE)), Image.new("RGB", (SIDE, SIDE), "white")
    half.paste((0, 0, 0), (0, 0, SIDE // 2, SIDE))
    return [black, half]


def asked(folder, prompt=None, count=6):
    return CaptionerParams(str(folder), None, prompt, count, 1)


def test_each_picture_has_words_of_its_own_whatever_the_batch_and_the_prompt_counts(captioner):
    model, processor = load_captioner(Model(str(captioner), None))
    words = caption_images(model, processor, pictures(), asked(captioner))
    assert len(set(words)) == 2 and all(0 < len(text.replace(" ", "")) <= 6 for text in words)
    assert words == [caption_images(model, processor, [picture], asked(captioner))[0] for picture in pictures()]
    assert caption_images(model, processor, pictures(), asked(captioner), "what is it") != words
    short = caption_images(model, processor, pictures(), asked(captioner, count=2))
    assert short != words and all(text.startswith(start) for text, start in zip(words, short, strict=True))


@pytest.fixture
def project(tmp_path):
    """Two drawings, the second with captions of the user's, and a variant with a captioner of its own."""
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models", target_is_directory=True)
    (tmp_path / "p/images").mkdir(parents=True)
    for name, picture in zip(("key", "owl"), pictures(), strict=True):
        picture.save(tmp_path / f"p/images/{name}.png")
    write_drawings(tmp_path / "p/drawings.csv", [Drawing(f"{name}.png", "0" * 64, "train") for name in ("key", "owl")])
    write_user_captions(tmp_path / "p/captions_user.csv", {"owl.png": ["my owl", "a bird"]})
    set_captioner(tmp_path, ROOT / "models/embedded/blip")
    return tmp_path


def set_captioner(project, folder, name="other", prompt="null"):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    keys = f"{{id: '{folder}', revision: null, prompt: {prompt}, max_new_tokens: 6, num_beams: 1}}"
    text = text.replace("captioners: {}", f"captioners: {{{name}: {keys}}}")
    text += '  other:\n    trigger: ""\n    caption_dropout: 0.1\n'
    (project / "params.yaml").write_text(text, encoding="utf-8")


def test_the_command_captions_with_the_variants_own_captioner_what_the_user_has_not(captioner, project):
    set_captioner(project, captioner)
    printed = call(caption, project, "other", "p", "--out", "out")
    assert f"2 captions: 1 the user's own, 1 by {captioner}, 0 known from before" in printed
    own = (project / "out/key.txt").read_text()
    model, processor = load_captioner(Model(str(captioner), None))
    assert own.strip() == caption_images(model, processor, [squared(pictures()[0])], asked(captioner))[0]
    assert (project / "out/owl.txt").read_text() == "my owl\na bird\n"
    assert "0 by" in call(caption, project, "other", "p", "--out", "out")
    set_captioner(project, captioner, prompt="what is it")
    assert "1 by" in call(caption, project, "other", "p", "--out", "out")
    assert (project / "out/key.txt").read_text() != own


def test_blip_may_be_one_too_but_takes_no_prompt(project, capsys):
    call(caption, project, "other", "p", "--out", "out")
    assert (project / "out/key.txt").read_text().strip()
    set_captioner(project, ROOT / "models/embedded/blip", prompt="a")
    with pytest.raises(SystemExit):
        call(caption, project, "other", "p", "--out", "out")
    assert "error: params.yaml: captioners: a blip takes no prompt; set it to null" in capsys.readouterr().err


def test_a_model_that_is_no_captioner_is_named():
    with pytest.raises(UserError, match="clip: found a model of type clip, allowed for a captioner: blip, florence2, "):
        load_captioner(Model(str(ROOT / "models/embedded/clip"), None))


def test_a_variant_without_one_is_named(project, capsys):
    with pytest.raises(SystemExit):
        call(caption, project, "blip", "p", "--out", "out")
    assert "error: params.yaml: captioners: there is no blip; there are other" in capsys.readouterr().err


def test_before_anything_runs_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="none: no such model folder"):
        check_models(load_profile("embedded", ROOT), [Model(str(tmp_path / "none"), None)], ROOT)


@pytest.mark.parametrize("name", ["vanilla", "nobody"])
def test_a_captioner_is_a_variants_whose_captions_no_other_stage_writes(project, name):
    set_captioner(project, "x", name)
    with pytest.raises(UserError, match=f"params.yaml: captioners: found '{name}', allowed: the name of one of"):
        load_params(project)


def test_dvc_has_a_stage_for_each_captioner_and_none_in_the_sample(project):
    Repo.init(str(project), no_scm=True)
    shutil.copy(ROOT / "dvc.yaml", project)

    def stages():
        return {stage.name for stage in Repo(str(project)).index.stages}

    assert {"caption@other", "train@other", "evaluate@other"} <= stages()
    shutil.copy(ROOT / "params.yaml", project)
    assert not [name for name in stages() if name.startswith("caption@") or name.endswith("@other")]
