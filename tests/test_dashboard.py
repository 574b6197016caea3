"""The dashboard's pages on the small finished project, by Streamlit's own AppTest; in a browser: test_browser.py."""

import contextlib
import io
import json
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pypdfium2
import pytest
from conftest import ENVIRONMENT, ROOT, copy_project, run, set_value
from made_up_photos import arm
from PIL import Image
from skimage.measure import label
from streamlit.testing.v1 import AppTest

from app.stencil.options import STYLES
from app.ui import as_markdown, thumbnail
from tattoo_lora.params import load_params

LISTING = "DVC is still listing the experiments; they will appear here."
PAGES = ("start", "train", "draw", "print", "compare")
GALLERY, CURVES, TWO = ({"compare_section": section} for section in ("Pictures", "Curves", "Experiments"))
DRAWINGS = {"train_section": "Drawings"}
SKIN = {"print_section": "On skin"}
LOOKS = [("start", {}), ("train", {}), ("train", DRAWINGS), ("draw", {}), ("print", {}), ("print", SKIN)]
LOOKS += [("compare", {}), ("compare", GALLERY), ("compare", CURVES), ("compare", TWO)]


@pytest.fixture
def copy(finished, tmp_path):
    return copy_project(finished, tmp_path / "p")


@pytest.fixture
def light(finished, tmp_path):
    """A copy of what the pages read, without the models and DVC's cache: a tenth of the time."""
    return shutil.copytree(finished, tmp_path / "p", ignore=shutil.ignore_patterns("models", "cache", ".git"))


@contextlib.contextmanager
def opened(project, page="start", **chosen):
    """The page as AppTest runs it in the project, with what was chosen before; it must not have raised."""
    with contextlib.chdir(project):
        app = AppTest.from_file(str(ROOT / "app/dashboard.py"), default_timeout=60).run()
        for name, choice in chosen.items():
            app.session_state[name] = choice
        if page != "start":
            app.switch_page(f"views/{page}.py").run()
        assert not app.exception, app.exception[0].stack_trace
        yield app


def texts(app):
    return "\n".join(element.value for element in app.text)


def look_again_while(app, text):
    """What a page shows in the end, where it first says that it is still looking."""
    until = time.monotonic() + 180  # DVC answers in seconds, on a busy machine in minutes
    while time.monotonic() < until:
        if text not in texts(app):
            return
        time.sleep(0.2)
        app.run()
    raise AssertionError(f"still: {text}")


def press(app, label):
    """Click on the button; what it starts must not raise."""
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception, app.exception[0].stack_trace


def pictures(app):
    return len(app.get("image"))


def files(project):
    kept = [path for path in project.rglob("*") if path.is_file() and not {".git", ".dvc"} & set(path.parts)]
    return {str(path.relative_to(project)): path.stat().st_mtime_ns for path in kept if "__pycache__" not in str(path)}


@pytest.mark.parametrize(("page", "chosen"), [look for look in LOOKS if look[1] != SKIN])
def test_before_any_run_a_page_says_what_to_do(project, page, chosen):
    with opened(project, page, **chosen) as app:
        look_again_while(app, LISTING)
        commands = "\n".join(block.value for block in app.code)
        said = texts(app) + commands + "".join(info.value for info in app.info)
        said += "".join(button.label for button in app.button)
        what_to_do = ("python main.py", "dvc exp run", "No adapter has been trained yet", "Bring your drawings", "Draw")
        assert any(words in said for words in what_to_do)


def test_the_first_screen_shows_pictures_the_verdict_and_what_to_do_next(finished):
    with opened(finished) as app:
        look_again_while(app, "Looking at the stages")
        assert "Everything is up to date." in texts(app)
        assert json.loads((finished / "metrics/findings.json").read_text())["headline"] in texts(app)
        assert pictures(app) == 4 and not app.dataframe and not app.metric  # tables stand in Compare
        assert [button.label for button in app.button] == ["Bring your drawings", "Draw", "Print"]
        prompts = app.get("button_group")[0]
        prompts.set_value("a deer").run()
        assert not app.exception and pictures(app) == 4


@pytest.mark.parametrize(("label", "title"), [("Bring your drawings", "Train"), ("Draw", "Draw"), ("Print", "Print")])
def test_each_next_step_is_one_click_away(light, label, title):
    with opened(light) as app:
        next(button for button in app.button if button.label == label).click().run()
        assert not app.exception and app.title[0].value == title


def test_the_first_screen_imports_nothing_that_only_other_places_need(finished):
    look = "from streamlit.testing.v1 import AppTest; import sys; "
    look += f"app = AppTest.from_file({str(ROOT / 'app/dashboard.py')!r}, default_timeout=60).run(); "
    look += "print(len(app.get('image')), sorted({'pandas', 'scipy', 'altair', 'torch', 'dvc'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", look], cwd=finished, env=ENVIRONMENT, capture_output=True, text=True)
    assert said.stdout.split(maxsplit=1)[0] != "0" and said.stdout.endswith(" []\n"), said.stdout + said.stderr


def test_the_first_screen_before_any_run_shows_the_drawings_that_are_here(project):
    with opened(project) as app:
        assert "These drawings are here, in data/raw/flash." in texts(app) and pictures(app) == 8


@pytest.mark.parametrize("status", ["failed", "stopped", "running", "done"])
def test_the_first_screen_says_how_the_last_training_ended(light, status):
    with opened(light) as app:
        folder = light / ".scratch/jobs/1"
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps({"arguments": []}))
        (folder / "state.json").write_text(json.dumps({"pid": 1, "started": 0.0, "status": status}))
        app.run()
        said = "".join(element.value for element in (*app.error, *app.info))
        expected = {"failed": "failed", "stopped": "was stopped", "running": "was interrupted"}  # its process is gone
        assert expected.get(status, "") in said and ("training" in said) == (status != "done")


def test_the_verdict_shows_winners_and_tables(finished):
    with opened(finished, "compare") as app:
        assert {metric.label for metric in app.metric} == {"test_loss ↓", "clip_score ↑", "style ↓"}
        assert "better than" in texts(app) or "no real difference from" in texts(app)
        assert json.loads((finished / "metrics/findings.json").read_text())["headline"] in texts(app)
        assert list(app.dataframe[0].value["variant"]) == ["base", "vanilla", "blip", "blip_plus"]
        assert not app.dataframe[0].value.astype(str).map(lambda cell: "*" in cell).any(axis=None)
        assert pictures(app) == 4


def test_the_first_screen_says_which_stages_a_change_makes_stale_and_why(copy):
    set_value(copy / "params.yaml", "rank", 2)
    with opened(copy) as app:
        look_again_while(app, "Looking at the stages")
        assert "7 of 12 stages are to be run, because something changed" in texts(app)
        why = next(table.value for table in app.dataframe if "why" in table.value.columns).set_index("stage")["why"]
        assert why["train@blip"] == "changed: params.yaml" and why["report"] == (
            "waits for train@vanilla, train@blip and 4 more"
        )


def test_curves_of_a_run_that_is_deleted_under_the_page_go(light):
    with opened(light, "compare", **CURVES) as app:
        assert len(app.get("vega_lite_chart")) == 3
        shutil.rmtree(light / "runs")
        app.run()
        assert not app.exception and not app.get("vega_lite_chart")
        assert "python main.py" in app.code[0].value


def test_a_log_that_is_being_written_is_drawn_as_far_as_it_goes(light):
    log = light / "runs/logs/blip.csv"
    log.write_bytes(log.read_bytes()[:-3])
    (light / "runs/logs/vanilla.csv").write_bytes(b"step,tr")
    with opened(light, "compare", **CURVES) as app:
        assert app.multiselect[1].options == ["blip", "blip_plus"]
        assert len(app.get("vega_lite_chart")) == 3


def test_the_gallery_shows_the_chosen_step_with_the_base_beside(light):
    with opened(light, "compare", **GALLERY) as app:
        slider = app.select_slider(key="step")
        assert slider.options == ["0", "2", "4"] and slider.value == 4
        whole = pictures(app)
        assert whole == 4 * 4 + 8 * 4  # prompts x (base, variants): on the way, and evaluated
        shutil.rmtree(light / "runs/samples/blip/eval_step0002")
        (light / "runs/samples/vanilla/eval_step0002/prompt00.png").write_bytes(b"\x89PNG broken")
        app.run()
        app.select_slider(key="step").set_value(2).run()
        assert not app.exception and pictures(app) == whole - 4 - 1
        assert texts(app).count("no picture") == 4 and texts(app).count("broken picture") == 1


@pytest.mark.slow  # draws every picture twice
def test_the_gallery_shows_another_seed(finished):
    with opened(finished, "compare", **GALLERY) as app:
        seeds = next(control for control in app.get("button_group") if control.label == "Seed")
        scores = [line for line in texts(app).splitlines() if line.startswith("clip ")]
        seeds.set_value("8").run()
        assert not app.exception
        assert [line for line in texts(app).splitlines() if line.startswith("clip ")] != scores


def search_field(app):
    return next(field for field in app.text_input if field.label.startswith("Search in names"))


def test_the_data_page_searches_names_and_captions(finished):
    with opened(finished, "train", **DRAWINGS) as app:
        assert " 12 kept" in texts(app)
        search_field(app).set_value("SKULL").run()
        assert not app.exception and "skull.png" in texts(app) and "owl.png" not in texts(app)
        search_field(app).set_value("<script>.*").run()
        assert app.tabs[0].label == "Drawings (0)"


@pytest.mark.slow  # runs a stage
def test_the_data_page_shows_what_was_set_aside_and_why(copy):
    raw = copy / "data/raw/flash"
    owl = (raw / "owl.png").read_bytes()
    (raw / "another owl.png").write_bytes(owl)
    (raw / "torn.png").write_bytes(owl[: len(owl) // 2])
    run("dvc", "repro", "preprocess", cwd=copy)
    with opened(copy, "train", **DRAWINGS) as app:
        counts = texts(app)
        assert all(count in counts for count in (" 12 kept", " 1 duplicate", " 1 rejected"))
        assert app.tabs[2].label == "Duplicates (1)"
        assert "torn.png\nrejected: " in texts(app) and "owl.png\nduplicate: " in texts(app)
        assert "owl.png\nkept" in texts(app)
        search_field(app).set_value("torn").run()
        assert [tab.label for tab in app.tabs][:2] == ["Drawings (0)", "Set aside (1)"]


def test_a_drawing_is_tried_on_a_photo_at_its_size_and_nothing_is_written(tmp_path):
    photo = io.BytesIO()
    arm().save(photo, "PNG")
    (tmp_path / "dvc.yaml").touch()
    with opened(tmp_path, "print", **SKIN) as app:
        assert not app.selectbox  # nothing was drawn here
        app.file_uploader[0].upload("owl.png", (ROOT / "data/raw/flash/owl.png").read_bytes())
        app.file_uploader[1].upload("arm.png", photo.getvalue()).run()
        assert not app.error and not app.download_button and "Click on the two ends" in app.info[0].value
        # A click comes from JavaScript: test_browser.py.
        app.session_state["points"] = {"the scale's first end": (405, 820), "its second end": (495, 820)}
        app.run()
        assert not app.exception and not app.error and len(app.download_button) == 1
        app.number_input[0].set_value(290.0)
        app.segmented_control[2].set_value("cylinder").run()
        assert "do not go around a limb of 250 mm" in texts(app)
        app.file_uploader[1].clear().upload("arm.jpg", b"no photo").run()
        assert "arm.jpg: no photo (no picture in a format that is read)" in texts(app)
    assert [path.name for path in tmp_path.rglob("*")] == ["dvc.yaml"]


STENCIL_PAGE = (
    "from pathlib import Path\nfrom app.stencil.form import show_stencil\n"
    "show_stencil(Path('runs/samples/adhoc/owl.png'))"
)


@pytest.fixture
def owl(tmp_path):
    """A project with one drawn picture; the folder that it lies in."""
    folder = tmp_path / "runs/samples/adhoc"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "data/raw/flash/owl.png", folder)
    return folder


def test_a_stencils_lines_get_a_styles_width_and_its_breaks_are_joined(owl, tmp_path):
    with contextlib.chdir(tmp_path):
        app = AppTest.from_string(STENCIL_PAGE, default_timeout=60).run()
        assert [choice.split(":")[0] for choice in app.selectbox[1].options] == ["as drawn", *STYLES]
        shares, pieces = [], []
        for style, close_gaps_mm in ((0, 0.0), (1, 0.0), (1, 6.0)):
            app.selectbox[1].set_value(app.selectbox[1].options[style])
            app.number_input[1].set_value(close_gaps_mm)
            app.button[0].click().run()
            assert not app.exception and not app.error
            with Image.open(owl / "owl.stencil.png") as stencil:
                ink = np.asarray(stencil.convert("L")) < 128
            shares.append(ink.mean())
            pieces.append(label(ink).max())
    assert shares[1] < 0.5 * shares[0]  # the owl's lines are more than twice as wide as fine ones
    assert pieces[0] == pieces[1] > pieces[2]


def test_a_stencil_larger_than_the_page_comes_with_a_map(owl, tmp_path):
    folder, page = owl, STENCIL_PAGE
    with contextlib.chdir(tmp_path):
        app = AppTest.from_string(page, default_timeout=60).run()
        assert app.number_input[0].max == 1000
        app.number_input[0].set_value(250)
        app.selectbox[0].set_value("roll-110")
        app.checkbox[1].check()
        app.button[0].click().run()
    assert not app.exception and len(app.download_button) == 3
    assert "The PDF has 6 pages: first a map" in texts(app)  # 250 mm over 60, overlapping by 10
    pdf = pypdfium2.PdfDocument(folder / "owl.stencil.pdf")
    assert {round(page.get_width() / 72 * 25.4) for page in pdf} == {110}


def test_names_captions_and_prompts_stay_texts(light):
    hostile = "![x](http://evil.example/a.png) <img src=x> www.evil.example :smile: $x$"
    for kind in ("vanilla", "blip", "blip_plus"):
        (light / f"data/processed/flash/captions_{kind}/owl.txt").write_text(hostile)
    params = (light / "params.yaml").read_text()
    for prompt in (load_params(light).train.prompts[0], load_params(light).evaluate.prompts[0]):
        params = params.replace(f"- {prompt}", f"- '{hostile}'")
    (light / "params.yaml").write_text(params)
    for page, chosen in LOOKS:
        with opened(light, page, **chosen) as app:
            marked = [*app.markdown, *app.caption, *app.title, *app.subheader, *app.info, *app.warning, *app.error]
            assert all("evil" not in element.value for element in marked)
            assert all("evil" not in getattr(element, "label", "") for element in app.main if element.type != "text")


def test_markdown_is_made_of_a_text_so_that_it_shows_the_text():
    assert as_markdown("train@blip_plus") == "train@blip_plus" and as_markdown("test_loss ↓") == "test_loss ↓"
    assert as_markdown("[a](http://x)") == "` [a](http://x) `"
    assert as_markdown("a``b\n<img>") == "``` a``b <img> ```"
    for odd in ("_a_", "*a*", "www.x.org", ":smile:", "$a$", "a@b.c"):
        assert as_markdown(odd) == f"` {odd} `"


def test_thumbnails_are_of_pictures_alone(finished):
    assert thumbnail(b"<svg onload='x()'/>", 8) is None and thumbnail(b"", 8) is None
    raw = (finished / "data/raw/flash/owl.png").read_bytes()
    assert thumbnail(raw[: len(raw) // 2], 8) is None
    assert thumbnail(raw, 32).startswith(b"\x89PNG")


def test_mistakes_are_said_in_a_line(light):
    with opened(light, "draw") as app:
        app.text_area[0].set_value("  ")
        press(app, "Draw")
        assert app.warning[0].value == "Write a prompt first."
    set_value(light / "params.yaml", "rank", "two")
    for page, chosen in (("draw", {}), ("train", DRAWINGS)):
        with opened(light, page, **chosen) as app:
            assert app.error[0].value == "params.yaml cannot be used as it is."
            assert "train.rank: found 'two'" in texts(app)


def test_started_in_another_folder_the_dashboard_says_where_to_start_it(tmp_path):
    with contextlib.chdir(tmp_path):
        app = AppTest.from_file(str(ROOT / "app/dashboard.py"), default_timeout=60).run()
    assert app.error[0].value == "There is no dvc.yaml here: start the dashboard in the project's top folder."


def test_query_parameters_and_stored_choices_name_no_files(light):
    (light.parent / "secret.png").write_bytes((light / "data/raw/flash/owl.png").read_bytes())
    with contextlib.chdir(light):
        app = AppTest.from_file(str(ROOT / "app/dashboard.py"), default_timeout=60)
        for name in ("run", "file", "path", "gallery_run", "one", "step"):
            app.query_params[name] = "../secret.png"
        app.session_state["gallery_run"] = app.session_state["one"] = "../../secret"
        app.run()
        for page in PAGES:
            app.switch_page(f"views/{page}.py").run()
            assert not app.exception, (page, app.exception)
            assert "secret" not in texts(app)


def test_streamlit_takes_no_folder_of_the_dashboard_for_pages_of_its_own():
    # Opened at /draw right after a restart, it would run such a page alone, without what dashboard.py sets up.
    assert not (ROOT / "app/pages").exists() and (ROOT / "app/views/draw.py").is_file()


def test_started_in_any_folder_it_answers_on_this_machine_alone_and_sends_nothing(tmp_path):
    command = (
        f"from streamlit import config; config._main_script_path = {str(ROOT / 'app/dashboard.py')!r}\n"
        "options = 'server.address', 'browser.gatherUsageStats', 'server.enableXsrfProtection'\n"
        "print(*map(config.get_option, options))"
    )
    assert run("python", "-c", command, cwd=tmp_path).stdout.split() == ["localhost", "False", "True"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = ["streamlit", "run", str(ROOT / "app/dashboard.py"), "--server.port", str(port)]
    server = psutil.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        while not (heard := [one.laddr.ip for one in server.net_connections() if one.status == psutil.CONN_LISTEN]):
            assert server.poll() is None
            time.sleep(0.05)
    finally:
        server.terminate()
        server.wait()
    assert set(heard) <= {"127.0.0.1", "::1"}


def test_the_look_at_the_stages_ends_with_who_asked_for_it():
    look = "import os, time; from app.jobs import when_parent_ends; "
    look += "when_parent_ends(lambda: os._exit(1)); time.sleep(60)"
    ask = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {look!r}]).pid, flush=True); input()"
    asking = subprocess.Popen(
        [sys.executable, "-c", ask], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    looking = psutil.Process(int(asking.stdout.readline()))
    time.sleep(3)
    assert looking.is_running()
    asking.kill()
    asking.wait()
    with contextlib.suppress(psutil.NoSuchProcess):
        looking.wait(10)


def test_results_of_the_dataset_before_are_marked(light):
    (light / "data/raw/own").mkdir()
    for dataset, marked in (("flash", 0), ("own", 1)):
        set_value(light / "params.yaml", "dataset", dataset)
        for page, chosen, times in (
            ("start", {}, 1),
            ("compare", {}, 1),
            ("compare", CURVES, 1),
            ("compare", GALLERY, 2),
        ):
            with opened(light, page, **chosen) as app:
                said = [line.value for line in app.warning if line.value.startswith("These results belong to another")]
                assert len(said) == marked * times, page
        assert ("train@vanilla: flash" in texts(app)) == bool(marked)


def test_two_runs_are_compared(copy):
    set_value(copy / "params.yaml", "seeds", "[7]")
    set_value(copy / "metrics/blip.json", '"clip_score"', "12.3456,")
    tree = run("git", "stash", "create", cwd=copy).stdout.strip()
    run("git", "checkout", "-q", ".", cwd=copy)
    head = run("git", "rev-parse", "HEAD", cwd=copy).stdout.strip()
    made = run("git", "commit-tree", f"{tree}^{{tree}}", "-p", head, "-m", "as DVC makes one", cwd=copy).stdout.strip()
    ref = f"refs/exps/{head[:2]}/{head[2:]}/fewer"
    run("git", "update-ref", ref, made, cwd=copy)
    with opened(copy, "compare", **TWO) as app:
        branch = run("git", "branch", "--show-current", cwd=copy).stdout.strip()
        look_again_while(app, LISTING)
        assert app.selectbox[0].options == ["workspace", branch, "fewer"] and app.selectbox[1].value == "fewer"
        runs, params, metrics = (table.value for table in app.dataframe[:3])
        assert set(runs["run"]) == {"workspace", branch, "fewer"} and "evaluate.seeds" in runs.columns
        assert params.values.tolist() == [["evaluate.seeds", "[7, 8]", "[7]"]]
        clip = metrics[(metrics["variant"] == "blip") & (metrics["metric"] == "clip_score")].iloc[0]
        measured = json.loads((copy / "metrics/blip.json").read_text())["clip_score"]
        assert (
            float(clip["one: workspace"]) == float(f"{measured:.4g}") and clip["one: workspace"] != clip["other: fewer"]
        )
        assert len(app.get("vega_lite_chart")) == 1 and pictures(app) == 2
        assert "[" in metrics[metrics["metric"] == "clip_score"]["other - one"].iloc[0]
        run("git", "update-ref", "-d", ref, cwd=copy)
        for _ in range(60):
            app.run()
            if "fewer" not in app.selectbox[1].options:
                break
        assert not app.exception and app.selectbox[1].value in ("workspace", branch)


def test_experiments_that_take_long_to_list_come_by_themselves(light, monkeypatch):
    listing = threading.Event()

    def list_slowly():
        listing.wait(60)
        return []

    monkeypatch.setattr("app.ui.show_experiments", list_slowly)
    with opened(light, "compare", **TWO) as app:
        assert LISTING in texts(app)
        assert not app.selectbox
        listing.set()
        app.run()
        assert app.selectbox[0].options == ["workspace"]


def test_no_model_is_loaded_for_looking(finished):
    script = (
        "import sys; from streamlit.testing.v1 import AppTest\n"
        f"app = AppTest.from_file({str(finished / 'app/dashboard.py')!r}, default_timeout=60).run()\n"
        f"for page in {PAGES!r}:\n"
        "    app.switch_page(f'views/{page}.py').run(); assert not app.exception, (page, app.exception)\n"
        "print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    assert run("python", "-c", script, cwd=finished).stdout.splitlines()[-1] == "set()"
