"""The whole job in a browser: drawings dropped onto a page, captions, a training, pictures, a stencil and a sheet."""

import contextlib
import re
import shutil
import signal
import time

import psutil
import pytest
from conftest import ROOT, commit, copy_project, make_project, set_value
from other_hand import drawings
from test_browser import DESKTOP, PHONE, Visitor, choose, chromium, draw, pytestmark, served, sync_api  # noqa: F401

from app.jobs import read_jobs, started_by


@pytest.fixture
def clone(tmp_path):
    """The project as cloned, with the embedded models, nothing run, and the sample's first dozen drawings."""
    project = make_project(tmp_path / "p")
    for name in ("params.yaml", "profiles/embedded.yaml"):
        shutil.copy(ROOT / name, project / name)
    commit(project)
    yield project
    end_jobs(project)


@pytest.fixture
def long(project, tmp_path):
    """A copy whose training takes minutes, so that there is a middle."""
    copy = copy_project(project, tmp_path / "p")
    for key, value in {"steps": 5000, "eval_every": 500, "train.batch_size": 1}.items():
        set_value(copy / "profiles/embedded.yaml", key, value)
    set_value(copy / "params.yaml", "checkpoint_every", 10)
    yield copy
    end_jobs(copy)


def end_jobs(project):
    """They would outlive the test, as they outlive a server."""
    for job in read_jobs(project):
        for process in started_by(job.id):
            process.kill()


def send(visitor, files):
    """Drop files onto the page Drawings and bring them in as the set "my hand"."""
    payload = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files.items()]
    visitor.page.locator("input[type=file]").first.set_input_files(payload)
    visitor.settle()
    visitor.page.get_by_label("Name of the set").fill("my hand")
    visitor.page.get_by_label("Name of the set").press("Enter")
    visitor.settle()
    visitor.page.get_by_role("button", name="Bring in", exact=False).first.click()
    visitor.expect("drawings came in")
    visitor.settle()


def write_caption(visitor, name, caption):
    field = visitor.page.get_by_role("textbox", name=name)
    field.fill(caption)
    field.blur()
    visitor.settle()


def show(visitor, folder, name):
    visitor.page.screenshot(path=folder / f"{name}.png", full_page=True)


def start_training(visitor):
    visitor.page.get_by_role("button", name="Start training").click()


def test_from_drawings_to_a_printed_sheet(clone, chromium, tmp_path):  # noqa: F811
    with served(clone) as address:
        visitor = Visitor(chromium, address)
        page = visitor.page
        visitor.expect("Bring line drawings of one hand")
        show(visitor, tmp_path, "1 start")
        page.get_by_role("button", name="Bring your drawings").click()
        visitor.settle()
        send(visitor, drawings(25) | {"broken.png": b"\x89PNG broken"})
        visitor.expect("25 drawings came in, 1 was left out")
        sync_api.expect(page.get_by_role("img", name="each drawing as it came")).to_be_visible()
        show(visitor, tmp_path, "2 drawings")

        choose(visitor, "Captions")
        write_caption(visitor, "sun.png", "a sun with <b>rays</b>")
        write_caption(visitor, "moon.png", "a waning moon")
        visitor.expect("25 drawings, 2 with your own caption")
        show(visitor, tmp_path, "3 captions")
        raw = clone / "data/raw/my-hand"
        assert (raw / "sun.txt").read_text() == "a sun with <b>rays</b>\n"
        assert (raw / "sun.png").read_bytes() == drawings(1)["sun.png"] and not (raw / "broken.png").exists()

        choose(visitor, "Train")
        visitor.expect("python main.py --dataset my-hand --profile embedded")
        show(visitor, tmp_path, "4 plan")
        pressed = time.monotonic()
        start_training(visitor)
        sync_api.expect(page.get_by_role("img", name=re.compile("vanilla, step .*, picture 1"))).to_be_visible(
            timeout=400_000
        )
        base = time.monotonic() - pressed
        sync_api.expect(page.get_by_role("img", name=re.compile("vanilla, step [1-9].*, picture 1"))).to_be_visible(
            timeout=400_000
        )
        first = time.monotonic() - pressed
        print(f"from the button to the first picture {base:.0f} s, to the first of the adapter {first:.0f} s")
        show(visitor, tmp_path, "5 training")
        page.context.close()

        visitor = Visitor(chromium, address, PHONE)
        page = visitor.page
        visitor.expect("Tattoo LoRA")
        visitor.go_to("Train")
        visitor.expect("Training.")
        show(visitor, tmp_path, "6 again, on a phone")
        visitor.expect("Done: the adapters are ready to draw with", timeout=1200)
        took = time.monotonic() - pressed
        print(f"all stages after {took:.0f} s")
        visitor.settle()
        show(visitor, tmp_path, "7 done, on a phone")
        page.context.close()
        assert "own, 0 from names, 23 by BLIP" in read_jobs(clone)[-1].log()

        visitor = Visitor(chromium, address)
        page = visitor.page
        visitor.go_to("Draw")
        draw(visitor, "a star", 8)
        for _ in range(3):
            page.get_by_role("button", name="☆ Keep").first.click()
            visitor.settle()
        show(visitor, tmp_path, "8 drawn")
        visitor.go_to("Print")
        page.get_by_role("button", name="Make the stencil").click()
        visitor.expect("Print the PDF at 100%")
        assert visitor.download("Stencil as PDF").startswith(b"%PDF")
        show(visitor, tmp_path, "9 stencil")
        choose(visitor, "Flash sheet")
        page.get_by_role("button", name="Make the sheet").click()
        visitor.expect("Print it at 100%")
        assert visitor.download("Flash sheet as PDF").startswith(b"%PDF")
        show(visitor, tmp_path, "10 sheet")
        assert visitor.wrong == []
    assert base < 60


def wait_for_step(project, step):
    log = project / "runs/logs/vanilla.csv"
    deadline = time.monotonic() + 400
    while not log.exists() or not re.search(rf"(?m)^{step},", log.read_text()):
        assert time.monotonic() < deadline, read_jobs(project)[-1].log()
        time.sleep(0.2)


def test_a_killed_server_and_a_killed_training_lose_nothing(long, chromium, tmp_path):  # noqa: F811
    with served(long, signal.SIGKILL) as address:
        visitor = Visitor(chromium, address)
        visitor.go_to("Train")
        choose(visitor, "Thorough")
        start_training(visitor)
        wait_for_step(long, 20)
    with served(long, signal.SIGKILL) as address:
        visitor = Visitor(chromium, address)
        visitor.go_to("Train")
        visitor.expect("Training.")
        visitor.expect("left")
        for process in started_by(read_jobs(long)[0].id):
            with contextlib.suppress(psutil.Error):
                process.kill()
        visitor.expect("It was killed. Nothing is lost")
        show(visitor, tmp_path, "killed")
        visitor.page.get_by_role("button", name="Go on").click()
        visitor.expect("Training.")
        deadline = time.monotonic() + 300
        while not (again := re.search(r"going on after step (\d+)", read_jobs(long)[-1].log())):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert int(again[1]) >= 10
        visitor.page.get_by_role("button", name="Stop").first.click()
        visitor.expect("Stopped. What was finished is kept")
        show(visitor, tmp_path, "stopped")
        assert read_jobs(long)[-1].status == "stopped" and visitor.wrong == []


def test_five_thousand_drawings_are_shown_within_two_seconds_and_three_megabytes(clone, chromium):  # noqa: F811
    raw = clone / "data/raw/many"
    raw.mkdir()
    for number, content in enumerate(drawings(25).values()):
        for copy in range(200):
            (raw / f"drawing {number} {copy}.png").write_bytes(content)
    with served(clone) as address:
        visitor = Visitor(chromium, address)
        visitor.go_to("Train")
        choose(visitor, "Captions")
        seconds, received, size = [], [], 0
        visitor.page.on("response", lambda response: received.append(len(response.body())))
        for _ in range(3):
            choose_set(visitor, "flash")
            visitor.expect("12 drawings")
            received.clear()
            begun = time.monotonic()
            choose_set(visitor, "many")
            visitor.expect("5000 drawings")
            sync_api.expect(visitor.page.get_by_role("img", name="drawing 0 0.png")).to_be_visible()
            sync_api.expect(visitor.page.locator("[data-testid=stImage] img")).to_have_count(24)
            seconds.append(time.monotonic() - begun)
            size = max(size, sum(received))  # later the browser has them
            visitor.settle()
        print(f"a page of 5,000 drawings after {min(seconds):.1f} s, {size / 1e6:.2f} MB of pictures")
        assert min(seconds) < 2 and size < 3e6


def choose_set(visitor, name):
    visitor.page.get_by_label("Set of drawings").click()
    visitor.page.get_by_role("option", name=name).click()


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_part_of_the_place_is_wider_than_the_window(clone, chromium, device, tmp_path):  # noqa: F811
    with served(clone) as address:
        visitor = Visitor(chromium, address, device)
        visitor.expect("Bring line drawings of one hand")
        visitor.go_to("Train")
        seen = {"Drawings": "Next: captions", "Captions": "Next: train", "Train": "The same in a terminal"}
        for part, text in seen.items():
            choose(visitor, part)
            visitor.expect(text)
            visitor.settle()
            show(visitor, tmp_path, part)
            wider = "document.querySelector('[data-testid=stMain]').scrollWidth - innerWidth"
            assert visitor.page.evaluate(wider) <= 0, part
        assert visitor.wrong == []
