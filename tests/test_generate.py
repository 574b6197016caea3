"""app.generate and app.compare, as a person runs them, on the small finished project."""

import contextlib
import dataclasses
import io
import json
import operator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, call, copy_project, run, sampler
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from app import compare, generate
from app.generate import (
    CHUNK,
    Adapter,
    Settings,
    Studio,
    chosen_adapter,
    file_name,
    read_settings,
    split_strength,
    stored,
)
from tattoo_lora.diffusion.prompts import encode_prompts
from tattoo_lora.diffusion.sampling import load_pipeline, sample_images
from tattoo_lora.errors import UserError
from tattoo_lora.params import Model, load_profile


@pytest.fixture
def copy(finished, tmp_path):
    return copy_project(finished, tmp_path / "p")


def fails(*arguments, project=ROOT):
    """What a run on the command line that fails says."""
    failed = run("python", "-m", *arguments, cwd=project, check=False)
    assert failed.returncode != 0 and "Traceback" not in failed.stderr
    return failed.stderr


FAST = ("--steps", "2")


def test_a_picture_holds_its_settings_and_is_drawn_again_to_the_byte(copy):
    prompts = ("an owl, ink", "ein Wolf — größer")
    made = json.loads(call(generate, copy, *prompts, "--variant", "blip", "--n", "2", "--json", *FAST))
    names = [entry["files"][0].split("/")[-1] for entry in made]
    assert names == ["an-owl-ink_7.png", "an-owl-ink_8.png", "ein-wolf-größer_7.png", "ein-wolf-größer_8.png"]
    first = copy / made[2]["files"][0]
    before = first.read_bytes()
    assert made[2]["settings"]["prompt"] == "ein Wolf — größer"
    [adapter] = made[2]["settings"]["adapters"]
    assert adapter["path"] == "runs/lora/blip/best.safetensors" and adapter["strength"] == 1
    arguments = ("--again", str(first), "--out", "elsewhere", "--json")
    again = json.loads(run("python", "-m", "app.generate", *arguments, cwd=copy).stdout)  # another process
    assert (copy / again[0]["files"][0]).read_bytes() == before
    assert again[0]["files"][0] == "elsewhere/ein-wolf-größer_7.png"


def test_other_settings_do_not_overwrite_a_picture(copy):
    folder = copy / "runs/samples/adhoc"
    call(generate, copy, "an owl", *FAST)
    before = (folder / "an-owl_7.png").read_bytes()
    call(generate, copy, "an owl", *FAST, "--variant", "blip", "--strength", "1.5", "--stencil-mm", "40")
    call(generate, copy, "an owl", *FAST)  # the first once more
    assert (folder / "an-owl_7.png").read_bytes() == before
    assert (folder / "an-owl_7-2.png").read_bytes() != before
    names = {path.name for path in folder.iterdir()}
    names.discard("an-owl_7-2.stencil.check.png")  # only if a line of this drawing is too thin
    assert names == {"an-owl_7.png", "an-owl_7-2.png", "an-owl_7-2.stencil.png", "an-owl_7-2.stencil.svg"}


def test_strength_is_how_much_the_adapter_counts(copy):
    pictures = {}
    for strength in ("0", "1"):
        call(generate, copy, "an owl", *FAST, "--variant", "vanilla", "--strength", strength, "--out", strength)
        pictures[strength] = Image.open(copy / strength / "an-owl_7.png").tobytes()
    call(generate, copy, "an owl", *FAST, "--out", "base")
    assert pictures["0"] == Image.open(copy / "base/an-owl_7.png").tobytes()
    assert pictures["1"] != pictures["0"]


def test_adapters_add_up_each_with_its_strength(copy):
    files = {name: f"runs/lora/{name}/best.safetensors" for name in ("blip", "vanilla")}
    kinds = {
        "whole": ("--variant", "blip"),
        "halves": ("--lora", f"{files['blip']}:0.4", f"{files['blip']}:0.6"),
        "off": ("--variant", "blip", "--lora", f"{files['vanilla']}:0"),
        "both": ("--variant", "blip", "--lora", f"{files['vanilla']}:0.5"),
        "turned": ("--lora", files["vanilla"], f"{files['blip']}:2", "--strength", "0.5"),
    }
    pictures = {}
    for kind, options in kinds.items():
        call(generate, copy, "an owl", *FAST, *options, "--out", kind)
        pictures[kind] = np.asarray(Image.open(copy / kind / "an-owl_7.png")).astype(int)
    assert max(np.abs(pictures[kind] - pictures["whole"]).max() for kind in ("halves", "off")) <= 1
    assert np.abs(pictures["turned"] - pictures["both"]).max() <= 1
    assert np.abs(pictures["both"] - pictures["whole"]).max() > 8


def test_strengths_change_without_the_files_being_read_again(copy, monkeypatch):
    monkeypatch.chdir(copy)
    profile, read = load_profile("embedded"), []
    monkeypatch.setattr(generate, "load_adapters", lambda *args, load=generate.load_adapters: read.append(load(*args)))
    path, studio = Path("runs/lora/blip/best.safetensors"), Studio()
    one = Settings("an owl", "", 7, 2, 4.0, 64, 64, "models/embedded/base", None, "float32", (chosen_adapter(path),))
    several = [generate.with_strength(one, strength) for strength in (0.0, 1.0, 0.5)]
    drawn = [studio.draw(settings, profile).tobytes() for settings in several]
    assert len(read) == 1 and len(set(drawn)) == 3
    assert drawn[2] == Studio().draw(several[2], profile).tobytes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.7", ("a.safetensors", 0.7)),
        (r"C:\ink\a.safetensors", (r"C:\ink\a.safetensors", 1.0)),
        (r"C:\ink\a.safetensors:-1", (r"C:\ink\a.safetensors", -1.0)),
        (":2", (":2", 1.0)),
    ],
)
def test_a_strength_stands_behind_the_last_colon(text, expected):
    assert split_strength(text) == expected


def test_a_picture_of_an_earlier_version_is_read(tmp_path):
    """Those had one adapter at most."""
    for lora, expected in ((None, ()), ("a.safetensors", (Adapter("a.safetensors", "0f", 0.5),))):
        values = stored(Settings("an owl", "", 7, 2, 4.0, 64, 64, "b", None, "float32"))
        del values["adapters"]
        values |= {"lora": lora, "lora_sha256": lora and "0f", "strength": 0.5 if lora else 1.0}
        text = PngInfo()
        text.add_itxt(CHUNK, json.dumps(values))
        Image.new("RGB", (8, 8)).save(tmp_path / "old.png", pnginfo=text)
        assert read_settings(tmp_path / "old.png").adapters == expected


def test_kohyas_file_draws_what_diffusers_file_draws(copy):
    for name in ("best", "best.kohya"):
        call(generate, copy, "an owl", *FAST, "--lora", f"runs/lora/blip/{name}.safetensors", "--out", name)
    one, other = (Image.open(copy / name / "an-owl_7.png") for name in ("best", "best.kohya"))
    assert max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True)) <= 1


def test_prompts_from_a_file_and_the_size(copy):
    (copy / "prompts.txt").write_text("a key\n\n  a crown  \n", encoding="utf-8")
    call(generate, copy, "--prompts", "prompts.txt", *FAST, "--size", "96x64", "--out", "o")
    assert {path.name: Image.open(path).size for path in (copy / "o").iterdir()} == {
        "a-key_7.png": (96, 64),
        "a-crown_7.png": (96, 64),
    }


def test_each_setting_of_the_command_counts(processed, tmp_path):
    """Drawn by the command and by the library with the same settings, they are the same pictures."""
    project = copy_project(processed, tmp_path / "p")
    options = ("--n", "2", "--seed", "5", *FAST, "--json")
    kinds = {
        "plain": (),
        "negative": ("--negative", "a skull"),
        "unguided": ("--guidance", "0"),
        "longer": ("--steps", "3"),
    }
    pictures = {}
    for kind, arguments in kinds.items():
        made = json.loads(call(generate, project, "an owl", *options, *arguments, "--out", kind))
        pictures[kind] = [Image.open(project / entry["files"][0]).tobytes() for entry in made]
        assert [entry["settings"]["seed"] for entry in made] == [5, 6]
    assert len({picture for kind in pictures.values() for picture in kind}) == 8
    profile = load_profile("embedded", ROOT)
    pipeline = load_pipeline(Model(str(ROOT / profile.base.id), None), profile.inference.dtype)
    embeds = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, ["an owl", "a skull", ""]).split(1)

    def drawn(negative, scale=profile.sampling.guidance_scale):
        guided = dataclasses.replace(sampler(profile, 2), guidance_scale=scale)
        return sample_images(pipeline, embeds[0], negative, [6], guided)[0]

    for kind, expected in (
        ("plain", drawn(embeds[2])),
        ("negative", drawn(embeds[1])),
        ("unguided", drawn(embeds[2], 0.0)),
    ):
        difference = np.frombuffer(pictures[kind][1], np.uint8).astype(int) - np.frombuffer(
            expected.tobytes(), np.uint8
        )
        assert np.abs(difference).max() <= 2, kind


MISTAKES = {
    "no prompt": ([], 'no prompt; try `python -m app.generate "an owl"`'),
    "no adapter": (
        ["x", "--variant", "none"],
        "runs/lora/none/best.safetensors: no such adapter; run `dvc repro train`",
    ),
    "no adapter that can be read": (
        ["x", "--lora", "/proc/self/mem"],  # a file, whatever may be read elsewhere
        "/proc/self/mem: cannot be read (Input/output error)",
    ),
    "no prompts file": (["--prompts", "none.txt"], "none.txt: cannot be read (No such file or directory)"),
    "nan": (["x", "--strength", "nan"], "--strength nan: allowed is -10 to 10"),
    "strong": (
        ["x", "--lora", f"{ROOT}/models/embedded/blip/model.safetensors:11"],
        "model.safetensors: strength 11: allowed is -10 to 10",
    ),
    "inf": (["x", "--guidance", "inf"], "--guidance inf: allowed is 0 to 100"),
    "no steps": (["x", "--steps", "0"], "--steps 0: allowed is 1 to 998"),
    "steps back": (["x", "--steps", "-3"], "--steps -3: allowed is 1 to 998"),
    "no pictures": (["x", "--n", "0"], "--n 0: allowed is 1 to 10000"),
    "large seed": (["x", "--seed", "4294967303"], "--seed 4294967303: allowed is 0 to 4294967295"),
    "seeds too large": (["x", "--seed", "4294967295", "--n", "2"], "--seed 4294967296: allowed is 0 to 4294967295"),
    "small seed": (["x", "--seed", "-1"], "--seed -1: allowed is 0 to 4294967295"),
    "large": (["x", "--size", "100000x100000"], "--size, width 100000: allowed is 8 to 4096"),
    "no width": (["x", "--size", "0x64"], "--size, width 0: allowed is 8 to 4096"),
    "stencil": (["x", "--stencil-mm", "-5"], "--stencil-mm -5: allowed is 5 to 1000"),
    "no stencil": (["x", "--stencil-mm", "0"], "--stencil-mm 0: allowed is 5 to 1000"),
    "out is a file": (["x", "--out", "README.md"], "--out README.md: nothing can be written there (File exists)"),
    "out of reach": (["x", "--out", "/proc/o"], "--out /proc/o: nothing can be written there ("),
    "odd size": (["x", "--size", "65x64"], "--size 65x64: both must be multiples of 8"),
    "no size": (["x", "--size", "big"], "'big': write WIDTHxHEIGHT, as in 512x768"),
    "no profile": (["x", "--profile", "none"], "there is no profiles/none.yaml"),
    "not ours": (["--again", "data/raw/flash/owl.png"], "owl.png: holds no settings; was it made by app.generate"),
    "no picture": (["--again", "README.md"], "README.md: no picture ("),
}


def refused(program, *arguments, project=ROOT):
    """What the program prints where it stops, in this process."""
    said = io.StringIO()
    with pytest.raises(SystemExit) as stopped, contextlib.redirect_stderr(said):
        call(program, project, *arguments)
    assert stopped.value.code in (1, 2)
    return said.getvalue()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake):
    arguments, message = MISTAKES[mistake]
    assert message in refused(generate, *arguments)


def test_compare_checks_what_generate_does_and_its_seeds():
    assert "--seed 4294967296: allowed is" in refused(compare, "x", "--with", "base", "--seeds", "4294967296")
    assert "--seeds: one stands there twice" in refused(compare, "x", "--with", "base", "--seeds", "7", "7")
    assert "--out README.md: nothing can be" in refused(compare, "x", "--with", "base", "--out", "README.md")


@pytest.mark.parametrize("part", ["unet.conv_out", "vae.decoder.conv_out"])
def test_a_picture_of_one_colour_is_an_error(part):
    profile, studio = load_profile("embedded", ROOT), Studio()
    base = str(ROOT / profile.base.id)
    settings = Settings("an owl", "", 7, 1, 4.0, 64, 64, base, None, "float32")
    studio.draw(settings, profile)
    operator.attrgetter(part)(studio.pipeline).weight.data.fill_(torch.nan)
    with pytest.raises(UserError, match=r"all of one colour; the model's numbers .* \(here float32\) is too narrow"):
        studio.draw(settings, profile)


def test_a_size_that_is_not_whole_latents_is_an_error():
    profile = load_profile("embedded", ROOT)
    settings = Settings("an owl", "", 7, 1, 4.0, 64, 36, str(ROOT / profile.base.id), None, "float32")
    with pytest.raises(UserError, match="--size 64x36: both must be multiples of"):
        Studio().draw(settings, profile)


def test_a_blank_picture_is_an_error():
    profile, studio = load_profile("embedded", ROOT), Studio()
    base = str(ROOT / profile.base.id)
    settings = Settings("an owl", "", 7, 1, 4.0, 64, 64, base, None, "float32")
    studio.draw(settings, profile)
    studio.pipeline.vae.decoder.conv_out.weight.data.zero_()
    with pytest.raises(UserError, match="'an owl' with .*base: the picture is all of one colour; try another seed"):
        studio.draw(settings, profile)


def test_settings_of_another_version_or_out_of_bounds_are_not_drawn_again(tmp_path):
    settings = Settings("x", "", 7, 1, 4.0, 64, 64, "b", None, "float32")
    path = generate.save(Image.new("RGB", (8, 8)), dataclasses.replace(settings, steps=-3), tmp_path)
    assert "--steps -3: allowed is 1 to 998" in refused(generate, "--again", str(path))
    text = PngInfo()
    text.add_itxt(generate.CHUNK, '{"prompt": "x"}')
    Image.new("RGB", (8, 8)).save(path, pnginfo=text)
    assert f"{path}: its settings are of another version, or were edited (" in refused(generate, "--again", str(path))


def test_prompts_are_read_whatever_the_editor_put_before_them(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("größer\na key\n", encoding="utf-8-sig", newline="\r\n")
    assert generate.read_prompts(path) == ["größer", "a key"]
    for encoding, found in (("utf-16", "UTF-16"), ("cp1252", "not UTF-8, perhaps Windows-1252 (byte 3)")):
        path.write_text("größer\n", encoding=encoding)
        assert f"prompts.txt: the text is {found}; save it as UTF-8" in refused(generate, "--prompts", str(path))


def test_after_a_file_that_is_no_adapter_for_the_model_the_next_picture_is_drawn(finished, tmp_path):
    good = finished / "runs/lora/blip/best.safetensors"
    profile, studio = load_profile("embedded", ROOT), Studio()

    def settings(path):
        base = str(ROOT / profile.base.id)
        return Settings("an owl", "", 7, 2, 4.0, 64, 64, base, None, "float32", (Adapter(str(path), ""),))

    save_file(load_file(good) | {"a.b": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="other.safetensors: 1 of .* keys fit no layer"):
        studio.draw(settings(tmp_path / "other.safetensors"), profile)
    assert studio.draw(settings(good), profile).tobytes() == Studio().draw(settings(good), profile).tobytes()


def test_an_empty_prompts_file_is_said_so(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    assert "empty.txt: no prompts; write one a line" in fails("app.generate", "--prompts", str(tmp_path / "empty.txt"))


def test_another_adapter_of_the_same_name_does_not_draw_again(copy):
    call(generate, copy, "an owl", *FAST, "--variant", "blip")
    lora = copy / "runs/lora/blip"
    (lora / "best.safetensors").unlink()
    (lora / "best.safetensors").write_bytes((lora / "best.kohya.safetensors").read_bytes())
    said = fails("app.generate", "--again", "runs/samples/adhoc/an-owl_7.png", project=copy)
    assert "best.safetensors: is another adapter than the one that drew" in said


def test_a_prompt_without_letters_still_has_a_name():
    settings = Settings("!!", "", 3, 1, 1.0, 64, 64, "b", None, "auto")
    assert file_name(settings) == "picture_3.png"


def test_columns_of_a_comparison_start_from_the_same_noise(copy):
    arguments = ["an owl", "a key", "--with", "base", "blip", "HEAD:vanilla", "runs/lora/blip/final.safetensors"]
    made = json.loads(call(compare, copy, *arguments, "--seeds", "3", "4", *FAST, "--json"))
    assert Image.open(copy / made["comparison"]).width > 400
    assert [entry["column"] for entry in made["pictures"][::4]] == ["base", "blip", "HEAD:vanilla", "final"]
    drawn = {(e["column"], e["settings"]["prompt"], e["settings"]["seed"]): e["file"] for e in made["pictures"]}
    assert len(drawn) == 16 and all((copy / file).is_file() for file in drawn.values())
    call(generate, copy, "an owl", *FAST, "--seed", "3", "--out", "alone")
    assert Image.open(copy / "alone/an-owl_3.png").tobytes() == Image.open(copy / drawn["base", "an owl", 3]).tobytes()


def test_a_comparison_of_strengths_has_a_column_for_each(copy):
    mixed = "blip:0.5+runs/lora/vanilla/best.safetensors:0.25"
    made = json.loads(
        call(compare, copy, "an owl", "--with", "base", "blip", mixed, "--strengths", "0", "1", *FAST, "--json")
    )
    columns = {entry["column"]: entry for entry in made["pictures"]}
    assert list(columns) == ["base", "blip at 0", "blip at 1", f"{mixed} at 0", f"{mixed} at 1"]
    assert [adapter["strength"] for adapter in columns[f"{mixed} at 1"]["settings"]["adapters"]] == [0.5, 0.25]
    drawn = {column: Image.open(copy / entry["file"]).tobytes() for column, entry in columns.items()}
    assert drawn["base"] == drawn["blip at 0"] == drawn[f"{mixed} at 0"] and len(set(drawn.values())) == 3
    for options, said in (
        (("1", "1"), "--strengths: one stands there twice"),
        (("nan",), "--strengths nan: allowed is -10 to 10"),
    ):
        assert said in fails("app.compare", "x", "--with", "blip", "--strengths", *options, project=copy)


def test_a_column_that_means_nothing_is_named(copy):
    said = fails("app.compare", "--with", "nope", project=copy)
    assert "--with nope: neither base, a variant (vanilla, blip, blip_plus), EXPERIMENT:VARIANT nor" in said
    said = fails("app.compare", "--with", "nope:blip", project=copy)
    assert "nope:blip: DVC has no such adapter (" in said and "see `dvc exp list`" in said
