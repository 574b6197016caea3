"""The place Train by Streamlit's own AppTest, and what it asks and says, without a browser."""

import contextlib
import dataclasses
import json
import shutil

import pytest
from conftest import ROOT
from other_hand import drawings
from streamlit.testing.v1 import AppTest

from app import uploads
from app.jobs import FOLDER
from app.own_folder import read_setting, set_params
from app.training import (
    PRESETS,
    Choice,
    arguments,
    last_error,
    plan_choice,
    read_trigger,
    save_trigger,
    seconds_left,
    stage_names,
    stage_seconds,
    stage_states,
)
from tattoo_lora.errors import UserError
from tattoo_lora.params import load_params, load_profile

TRAIN = load_profile("embedded", ROOT).train
CHOICE = Choice("hand", "embedded", 25, TRAIN.steps, 8, TRAIN.learning_rate)
STAGES = ["preprocess", "encode", "train@blip", "report"]
LOG = """hand: 25 files that may be drawings
Running stage 'preprocess':
> python -m stages.preprocess
Updating lock file 'dvc.lock'
Stage 'encode' is cached - skipping run, checking out outputs
Running stage 'train@blip':
error: val_loss is nan
ERROR: failed to reproduce 'train@blip'
error: `dvc repro` stopped, see above
"""


@pytest.fixture
def light(tmp_path):
    """What the page reads of a project with one set of another hand, without models; its name is that of the sample."""
    for name in ("params.yaml", "dvc.yaml", "profiles", "models"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors", "training"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "data/raw/flash").mkdir(parents=True)
    for name, content in drawings(30).items():
        (tmp_path / "data/raw/flash" / name).write_bytes(content)
    return tmp_path


@contextlib.contextmanager
def opened(project, section):
    with contextlib.chdir(project):
        app = AppTest.from_file(str(ROOT / "app/dashboard.py"), default_timeout=60).run()
        app.session_state["train_section"] = section
        app.switch_page("views/train.py").run()
        assert not app.exception, app.exception[0].stack_trace
        yield app


def texts(app):
    return "\n".join(element.value for element in app.text)


def pressed(app, label):
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception, app.exception[0].stack_trace


def made_job(project, status, log=LOG, arguments=("--dataset", "flash")):
    """A job whose keeper is gone, as it left its files."""
    folder = project / FOLDER / "1"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"arguments": list(arguments)}))
    (folder / "state.json").write_text(json.dumps({"status": status, "pid": None, "started": None}))
    (folder / "log.txt").write_text(log)


def test_the_arguments_set_what_differs_and_main_py_takes_them(light):
    params, profile = load_params(light), load_profile("embedded", light)
    assert arguments(CHOICE, params, profile) == [
        *("--dataset", "hand", "--profile", "embedded"),
        *("-S", "profiles/embedded.yaml:train.epochs=25"),
    ]
    other = Choice("hand", "embedded", 50, None, 4, 1e-05, "my style")
    given = arguments(other, params, profile)
    set_params(light, [read_setting(text) for text in given[5::2]])
    changed, train = load_params(light), load_profile("embedded", light).train
    assert (train.epochs, train.steps, train.learning_rate) == (50, None, 1e-05)
    assert (changed.train.rank, changed.train.alpha) == (4, 4)
    assert {variant.trigger for variant in changed.variants.values()} == {"my style"}


def test_the_plan_follows_from_the_drawings_and_the_choice(light):
    params, profile = load_params(light), load_profile("embedded", light)
    with contextlib.chdir(light):
        short, _ = plan_choice(CHOICE, params, profile, 25)
        long, _ = plan_choice(dataclasses.replace(CHOICE, epochs=PRESETS["Normal"]), params, profile, 25)
    assert short.steps < long.steps <= TRAIN.steps and short.drawings == long.drawings == 22


def test_the_stages_are_those_of_each_variant():
    stages = stage_names(ROOT, load_params(ROOT))
    assert stages[0] == "preprocess" and stages[-1] == "report"
    assert "train@vanilla" in stages and "evaluate@blip_plus" in stages and "train" not in stages


@pytest.mark.parametrize(("is_over", "training"), [(False, "running"), (True, "stopped")])
def test_the_log_says_where_each_stage_stands(is_over, training):
    states = stage_states(LOG, STAGES, is_over)
    assert list(states.values()) == ["done", "unchanged", training, "waiting"]
    assert stage_states(LOG + "Stage 'report' didn't change, skipping\n", STAGES, True)["train@blip"] == "done"


def test_what_is_left_counts_the_stages_that_wait_and_the_rest_of_this_one(tmp_path):
    states = stage_states(LOG, STAGES, False)
    seconds = dict.fromkeys(STAGES, 10.0) | {"train@blip": 100.0}
    assert seconds_left(states, seconds, 0.25) == 85
    with contextlib.chdir(tmp_path):
        assert set(stage_seconds(STAGES, None).values()) == {12}


@pytest.mark.parametrize(
    ("log", "said"), [(LOG, "val_loss is nan"), ("a\nKilled\n", "Killed"), ("", "nothing was printed")]
)
def test_the_first_error_of_a_log_is_what_it_died_of(log, said):
    assert last_error(log) == said


def test_a_trigger_word_is_kept_for_its_set(tmp_path):
    assert read_trigger(tmp_path, "hand") == ""
    save_trigger(tmp_path, "hand", "  my   style ")
    assert read_trigger(tmp_path, "hand") == "my style" and read_trigger(tmp_path, "other") == ""
    for bad in ("a, b", "x" * 41, "<b>", "a\u202eb"):
        with pytest.raises(UserError, match="trigger word: up to 40 letters, digits, blanks, - and _ are allowed"):
            save_trigger(tmp_path, "hand", bad)


def test_a_caption_is_edited_in_place_and_words_are_replaced_in_all(light):
    raw = light / "data/raw/flash"
    (raw / "moon.txt").write_text("a moon\nthe moon, old\n")
    with opened(light, "Captions") as app:
        assert "30 drawings, 1 with your own caption" in texts(app) and len(app.text_area) == 24
        app.number_input[0].set_value(2).run()
        assert len(app.text_area) == 6
        field = app.text_area[0]
        field.set_value("a **drawing** <b>\n\n a  star ").run()
        assert not app.exception
        name = field.label.strip("` ")
        assert (raw / name).with_suffix(".txt").read_text() == "a **drawing** <b>\na star\n"
        assert app.text_area[0].value == "a **drawing** <b>\na star"
        next(one for one in app.text_input if one.label == "Find").set_value("moon")
        next(one for one in app.text_input if one.label == "Replace with").set_value("crescent")
        pressed(app, "Replace in all drawings of the set")
        assert (raw / "moon.txt").read_text() == "a crescent\nthe crescent, old\n"
        app.text_area[0].set_value("").run()
        assert not (raw / name).with_suffix(".txt").exists()
    assert {path.name: path.read_bytes() for path in raw.glob("*.png")} == drawings(30)


def test_what_cannot_be_saved_or_replaced_is_said(light):
    with opened(light, "Captions") as app:
        app.text_area[0].set_value("x" * 2001).run()
        assert "longer than 2000 bytes" in texts(app)
        pressed(app, "Replace in all drawings of the set")
        assert "find: write the words to look for" in texts(app)
        next(one for one in app.text_input if one.label == "Trigger word").set_value("a, b").run()
        assert "trigger word: up to 40" in texts(app)
        (light / "data/raw/flash/rights.csv").write_text("name\nx\n")
        app.run()
        assert "needed: file, license" in texts(app) and not app.exception


def test_a_set_that_came_in_shows_its_sheet_and_what_was_left_out(light):
    with contextlib.chdir(light):
        sheet = light / "sheet.png"
        sheet.write_bytes(next(iter(drawings(1).values())))
        brought = uploads.Brought("flash", 30, [("<b>bad</b>.png", "unreadable")])
        uploads.remember(brought, sheet, light)
    with opened(light, "Drawings") as app:
        assert "30 drawings came in, 1 was left out." in texts(app)
        assert app.dataframe[0].value.iloc[0].tolist() == ["<b>bad</b>.png", "unreadable"]
        pressed(app, "Next: captions")
        assert "30 drawings, 0 with your own caption" in texts(app)


def test_the_chosen_set_holds_in_all_parts_and_can_be_changed_back(light):
    shutil.copytree(light / "data/raw/flash", light / "data/raw/hand")
    with opened(light, "Captions") as app:
        for name in ("hand", "flash", "hand"):
            app.selectbox(key="set_field").set_value(name).run()
            assert app.session_state["set"] == name and not app.exception
        pressed(app, "Next: train")
        assert "--dataset hand " in app.code[0].value


def test_a_folder_that_is_not_there_is_said(light):
    with opened(light, "Drawings") as app:
        next(one for one in app.text_input if "whole path" in one.label).set_value("/nowhere").run()
        pressed(app, "Copy the folder")
        assert "/nowhere: no such folder" in texts(app)


def test_without_any_set_each_part_says_what_to_do(light):
    shutil.rmtree(light / "data/raw/flash")
    for section in ("Drawings", "Captions", "Train"):
        with opened(light, section) as app:
            assert "bring some in under Drawings" in app.info[0].value


def test_the_command_follows_the_choice(light):
    with opened(light, "Train") as app:
        assert "train.epochs=25" in app.code[0].value
        app.get("button_group")[1].set_value("Thorough").run()
        assert "train.epochs=200" in app.code[0].value and not app.exception


@pytest.mark.parametrize(
    ("status", "said", "button"),
    [
        ("running", "It was killed. Nothing is lost", "Go on"),
        ("failed", "It stopped with an error", "Go on"),
        ("stopped", "Stopped. What was finished is kept", "Go on"),
        ("done", "Done: the adapters are ready", None),
    ],
)
def test_a_training_that_is_over_says_how_it_ended_and_what_to_press(light, status, said, button):
    made_job(light, status)
    with opened(light, "Train") as app:
        assert said in "".join(head.value for head in app.subheader)
        assert app.code[0].value == "python main.py --dataset flash"
        assert any(one.label == button for one in app.button) == (button is not None)
        assert ("val_loss is nan" in texts(app)) == (status == "failed")


def test_too_many_that_wait_are_said(light, monkeypatch):
    monkeypatch.setattr("app.jobs.LONGEST_QUEUE", 0)
    with opened(light, "Train") as app:
        pressed(app, "Start training")
        assert "0 trainings wait already, allowed are 0" in texts(app)
