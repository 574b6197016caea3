import re
import shutil
import time

import pytest
from conftest import ROOT, run, set_value

from tattoo_lora.errors import UserError
from tattoo_lora.params import load_params, load_profile


@pytest.fixture
def folder(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    return tmp_path


def test_the_shipped_files_are_valid():
    assert load_params(ROOT).train.rank == 8
    for profile in (ROOT / "profiles").glob("*.yaml"):
        assert load_profile(profile.stem, ROOT).train.steps >= 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rank", "8.0", "train.rank: found 8.0, allowed: a whole number 1 to 1024"),
        ("rank", "true", "train.rank: found True, allowed: a whole number"),
        ("rank", "0", "train.rank: found 0, allowed: a whole number 1 to 1024"),
        ("weight_decay", "1e+4", "found 10000.0, allowed: a number 0 to 1"),
        ("weight_decay", "e-4", "found 'e-4', allowed: a number 0 to 1"),
        ("weight_decay", "soon", "found 'soon', allowed: a number 0 to 1"),
        ("val_share", ".nan", "preprocess.val_share: found nan, allowed: a number 0.01 to 0.45"),
        ("alpha", ".inf", "train.alpha: found inf, allowed: a number at least 0.001"),
        ("fit", "stretch", "preprocess.fit: found 'stretch', allowed: one of pad, crop"),
        ("flatten", "yes please", "preprocess.flatten: found 'yes please', allowed: one of auto, true, false"),
        ("flip", "1", "encode.flip: found 1, allowed: true or false"),
        ("suffix", "[a]", "enrich.suffix: found ['a'], allowed: a text"),
        ("max_grad_norm", "-1", "train.max_grad_norm: found -1, allowed: a number at least 1e-06 or null"),
        ("seeds", "[7, true]", "evaluate.seeds: found [7, True], allowed: some whole numbers"),
        (
            "seeds",
            "[7, 8, 7]",
            "evaluate.seeds: found [7, 8, 7], allowed: some whole numbers from 0 to 4294967295, each o",
        ),
        (
            "seeds",
            "[4294967296]",
            "evaluate.seeds: found [4294967296], allowed: some whole numbers from 0 to 4294967295",
        ),
        ("seeds", "[-1]", "evaluate.seeds: found [-1], allowed: some whole numbers from 0 to 4294967295"),
        ("prompts", "[a, b, a]", "train.prompts: found ['a', 'b', 'a'], allowed: some texts each once"),
        ("sampler_steps", "999", "train.sampler_steps: found 999, allowed: a whole number 1 to 998"),
        ("compile", "fast", "train.compile: found 'fast', allowed: one of auto, off, default, graphs"),
        ("variants", "{}", "variants: found {}, allowed is a section of keys"),
        ("dataset", "", "dataset: found None, allowed: a text"),
    ],
)
def test_a_wrong_value_is_named_with_file_key_found_and_allowed(folder, key, value, message):
    if key in ("variants", "prompts"):  # several lines
        text = (folder / "params.yaml").read_text()
        changed = re.sub(rf"(?m)^( *){key}:.*\n(\1 +.*\n)+", rf"\1{key}: {value}\n", text, count=1)
        (folder / "params.yaml").write_text(changed)
    else:
        set_value(folder / "params.yaml", key, value)
    with pytest.raises(UserError) as error:
        load_params(folder)
    assert "params.yaml: " in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("resolution", "100", "resolution: found 100, allowed: a whole number 16 to 4096, a multiple of 8"),
        (
            "warmup_steps",
            "100",
            "train.warmup_steps: found 100, allowed: less than steps (100); a training that ends in its",
        ),
        ("dtype", "half", "inference.dtype: found 'half', allowed: one of auto, float32, bfloat16, float16"),
    ],
)
def test_a_wrong_value_of_a_profile_is_named_too(folder, key, value, message):
    set_value(folder / "profiles/embedded.yaml", key, value)
    with pytest.raises(UserError) as error:
        load_profile("embedded", folder)
    assert f"embedded.yaml: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("4", "train.ranks: found 4, allowed is a section of keys"),
        ("{ff: 0}", "train.ranks.ff: found 0, allowed: a whole number 1 to 1024"),
    ],
)
def test_ranks_that_are_none_are_named(folder, value, message):
    set_value(folder / "params.yaml", "ranks", "{ff: 4, proj: 2}")
    assert load_params(folder).train.ranks == {"ff": 4, "proj": 2}
    set_value(folder / "params.yaml", "ranks", value)
    with pytest.raises(UserError) as error:
        load_params(folder)
    assert message in str(error.value)


def test_a_number_with_an_exponent_is_one_as_dvc_writes_it(folder):
    """`dvc exp run -S train.weight_decay=1.0e-05` writes 1e-05, which YAML 1.1 takes for a text."""
    set_value(folder / "params.yaml", "weight_decay", "1e-05")
    assert load_params(folder).train.weight_decay == 1e-5


def test_a_training_without_an_end_is_refused(folder):
    for key in ("steps", "epochs"):
        set_value(folder / "profiles/embedded.yaml", key, "null")
    with pytest.raises(UserError, match="embedded.yaml: train: found null for both steps and epochs; one of them has"):
        load_profile("embedded", folder)


@pytest.mark.parametrize(("key", "value"), [("weight_decay", 0), ("weight_decay", 1), ("sampler_steps", 998)])
def test_both_ends_of_a_range_are_allowed(folder, key, value):
    set_value(folder / "params.yaml", key, value)
    assert getattr(load_params(folder).train, key) == value


@pytest.mark.parametrize("word", ["auto", "true", "false"])
def test_yamls_true_and_false_are_words_where_there_are_others_too(folder, word):
    set_value(folder / "params.yaml", "flatten", word)
    assert load_params(folder).preprocess.flatten == word


def test_off_is_a_word_though_yaml_takes_it_for_false(folder):
    set_value(folder / "params.yaml", "compile", "off")
    assert load_params(folder).train.compile == "off"


def test_a_profile_without_targets_is_refused(folder):
    set_value(folder / "profiles/embedded.yaml", "target_modules", "[]")
    with pytest.raises(UserError, match=r"target_modules: found \[\], allowed: some texts"):
        load_profile("embedded", folder)


@pytest.mark.parametrize(
    "name",
    [
        "base",
        "Base",
        "held_out",
        "findings",
        "report",
        "a/b",
        "..",
        ".a",
        "_a",
        "-a",
        "a b",
        "a@b",
        "a.b",
        "''",
        "con",
        "Lpt1",
    ],
)
def test_a_variant_that_would_collide_with_other_results_or_fits_no_path_is_refused(folder, name):
    set_value(folder / "params.yaml", "blip", f"\n  {name}:")
    text = (folder / "params.yaml").read_text().replace("  blip: \n", "")
    (folder / "params.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load_params(folder)
    found = name.strip("'")
    assert f"params.yaml: variants: found '{found}', allowed: a letter or digit, then letters, digits, _ and -;" in str(
        error.value
    )
    assert "other results have the names base, findings, held_out, report" in str(error.value)


@pytest.mark.parametrize("name", ["mine", "blip-2", "2024", "Flash_ü"])
def test_a_variant_of_letters_and_digits_is_allowed(folder, name):
    set_value(folder / "params.yaml", "variants", f"\n  {name}: {{trigger: '', caption_dropout: 0.1}}")
    assert name in load_params(folder).variants


def test_a_key_of_an_earlier_layout_of_profiles_is_refused_and_the_sections_are_listed(folder):
    path = folder / "profiles/embedded.yaml"
    path.write_text("base_model: models/mine\nbase_revision: null\nsteps: 9\n")
    with pytest.raises(UserError) as error:
        load_profile("embedded", folder)
    sections = "base, captioner, clip, inference, resolution, sampling, train"
    assert str(error.value) == f"{path}: base_model: unknown key; allowed: {sections}"


def test_an_unknown_key_is_refused_and_the_known_ones_are_listed(folder):
    set_value(folder / "params.yaml", "rank", "8\n  rang: 9")
    with pytest.raises(UserError, match=r"params.yaml: train.rang: unknown key; allowed: .*rank"):
        load_params(folder)


def test_a_missing_key_is_named(folder):
    text = (folder / "params.yaml").read_text().replace("  num_beams: 1", "")
    (folder / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=r"caption_blip.num_beams: missing; allowed: a whole number 1 to 32"):
        load_params(folder)


def test_broken_yaml_is_named_with_its_line(folder):
    (folder / "params.yaml").write_text("dataset: [flash\nprofile: x\n")
    with pytest.raises(UserError, match=r"params.yaml: no YAML in line \d"):
        load_params(folder)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "params.yaml: the text is UTF-16; save it as UTF-8"),
        ("cp1252", r"params.yaml: the text is not UTF-8, perhaps Windows-1252 \(byte 18\); save it as UTF-8"),
    ],
)
def test_another_encoding_is_named_and_a_byte_order_mark_is_no_part_of_the_text(folder, encoding, message):
    text = "dataset: flash # \xfc\n" + (folder / "params.yaml").read_text().partition("dataset: flash")[2]
    (folder / "params.yaml").write_text(text, encoding="utf-8-sig", newline="\r\n")
    assert load_params(folder).dataset == "flash"
    (folder / "params.yaml").write_text(text, encoding=encoding)
    with pytest.raises(UserError, match=message):
        load_params(folder)


def test_a_file_that_is_no_section_is_refused(folder):
    (folder / "params.yaml").write_text("hello\n")
    with pytest.raises(UserError, match="the file: found 'hello', allowed is a section of keys"):
        load_params(folder)


def test_no_params_file_is_said_so(tmp_path):
    with pytest.raises(UserError, match="params.yaml: not found; run this in the project's top folder"):
        load_params(tmp_path)


def test_an_unknown_profile_lists_those_there_are(folder):
    with pytest.raises(UserError, match="there is no .*turbo.yaml; profiles here: embedded, sd15"):
        load_profile("turbo", folder)


@pytest.mark.parametrize("stage", ["preprocess", "caption_blip", "enrich", "encode", "train", "evaluate"])
def test_every_stage_stops_at_a_typo_before_heavy_imports(folder, stage):
    set_value(folder / "params.yaml", "rank", "eight")
    shutil.copytree(ROOT / "stages", folder / "stages")
    shutil.copytree(ROOT / "tattoo_lora", folder / "tattoo_lora")
    arguments = {"preprocess": ["x", "--out", "y", "--sheet", "z"], "enrich": ["x"]}.get(stage, [])
    started = time.monotonic()
    result = run("python", "-X", "importtime", "-m", f"stages.{stage}", *arguments, cwd=folder, check=False)
    assert result.returncode == 1
    assert "error: params.yaml: train.rank: found 'eight', allowed: a whole number 1 to 1024" in result.stderr
    assert "Traceback" not in result.stderr
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines() if "|" in line}
    assert not imported & {"torch", "diffusers", "transformers"}
    assert time.monotonic() - started < 5  # about a quarter of a second; this catches an import of torch only


@pytest.mark.parametrize("stage", ["preprocess", "enrich"])
def test_a_stage_without_a_model_shows_its_usage_without_torch(stage):
    started = time.monotonic()
    result = run("python", "-X", "importtime", "-m", f"stages.{stage}", "--help", cwd=ROOT)
    assert time.monotonic() - started < 3  # about half a second on a free machine
    assert f"python -m stages.{stage} data/" in result.stdout
    assert " torch\n" not in result.stderr
