"""The dashboard as a visitor has it: a real server on loopback, a real Chromium."""

import contextlib
import io
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT, copy_project, run
from made_up_photos import arm
from PIL import Image

from app.generate import read_settings

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,  # minutes, and timings that want a quiet machine
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `apt-get install chromium`"),
]
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {  # Streamlit goes by what the browser calls itself
    "viewport": {"width": 390, "height": 844},
    "user_agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "is_mobile": True,
    "has_touch": True,
}
PAGES = ("Start", "Train", "Draw", "Print", "Compare")


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def copy(finished, tmp_path):
    return copy_project(finished, tmp_path / "p")


@contextlib.contextmanager
def served(project, end=signal.SIGTERM):
    """The address of the dashboard, started in the project as its docs say, and ended by that signal."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = ["streamlit", "run", "app/dashboard.py", "--server.port", str(port)]
    with (project.parent / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=project, env=ENVIRONMENT, stdout=log, stderr=log)
    try:
        while True:
            assert server.poll() is None, (project.parent / "server.log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
                break
            time.sleep(0.02)
        yield f"http://localhost:{port}"
    finally:
        server.send_signal(end)
        server.wait()
    said = (project.parent / "server.log").read_text()
    assert "Traceback" not in said, said


class Visitor:
    """A browser's window with what went wrong in it: errors on its console, requests to other machines."""

    def __init__(self, browser, address, device=DESKTOP):
        self.page = browser.new_context(**device, accept_downloads=True).new_page()
        self.wrong = []
        self.page.on("console", lambda line: line.type == "error" and self.wrong.append(line.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._asked)
        self.page.goto(address)

    def _asked(self, request):
        if not request.url.startswith(("http://localhost:", "ws://localhost:", "data:", "blob:")):
            self.wrong.append(f"asked for {request.url}")

    def expect(self, text, timeout=60):
        sync_api.expect(self.page.get_by_text(text, exact=False).first).to_be_visible(timeout=1000 * timeout)

    def go_to(self, title):
        if (button := self.page.get_by_test_id("stExpandSidebarButton")).is_visible():  # a phone
            button.click()
            self.page.wait_for_timeout(500)  # it slides in
        self.page.get_by_role("link", name=title).first.click()
        self.settle()

    def settle(self):
        """Wait until nothing is computed any more and all pictures have come."""
        self.page.wait_for_timeout(500)
        sync_api.expect(self.page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=120_000)
        sync_api.expect(self.page.locator("[data-stale=true]")).to_have_count(0, timeout=120_000)
        self.page.wait_for_function("[...document.images].every(image => image.complete)")
        assert self.page.get_by_test_id("stException").all_text_contents() == []

    def download(self, label):
        with self.page.expect_download() as waiting:
            self.page.get_by_role("button", name=label, exact=True).first.click()
        return Path(waiting.value.path()).read_bytes()


def draw(visitor, prompt, count):
    """So many pictures of the prompt on the page Draw."""
    visitor.page.get_by_label("Prompt", exact=True).fill(prompt)
    visitor.page.get_by_label("How many").fill(str(count))
    visitor.page.get_by_role("button", name="Draw", exact=True).first.click()
    visitor.expect(f"seed {6 + count}", timeout=180)
    visitor.settle()


def choose(visitor, part):
    """A part of the place that is open."""
    visitor.page.get_by_role("radio", name=part, exact=True).first.click()
    visitor.settle()


def test_a_visitor_uses_every_page(copy, chromium, tmp_path):
    run("dvc", "exp", "run", "-n", "fewer", "-S", "evaluate.seeds=[7]", cwd=copy)
    run("git", "checkout", "-q", ".", cwd=copy)
    run("dvc", "checkout", cwd=copy)
    with served(copy) as address:
        visitor = Visitor(chromium, address)
        page = visitor.page
        visitor.expect("Everything is up to date.")
        for title in PAGES:
            visitor.go_to(title)

        visitor.go_to("Draw")
        draw(visitor, "an owl, <b>ink</b>", 3)
        for _ in range(2):
            page.get_by_role("button", name="☆ Keep").first.click()
            visitor.settle()
        page.get_by_role("button", name="More", exact=True).first.click()
        visitor.expect("Prompt: an owl, <b>ink</b>")
        raw = visitor.download("PNG")
        (tmp_path / "owl.png").write_bytes(raw)
        assert read_settings(tmp_path / "owl.png").prompt == "an owl, <b>ink</b>"
        assert Image.open(io.BytesIO(raw)).size == (128, 128)
        page.get_by_role("button", name="Draw it again to the byte").click()
        visitor.expect("The same bytes.")
        page.get_by_role("button", name="Strip of strengths").last.click()
        visitor.expect("strength 1.25")
        visitor.settle()

        visitor.go_to("Print")
        page.get_by_role("button", name="Make the stencil").click()
        visitor.expect("Print the PDF at 100%")
        assert visitor.download("Stencil as SVG").startswith(b"<?xml")
        assert visitor.download("Stencil as PDF").startswith(b"%PDF")
        choose(visitor, "Flash sheet")
        page.get_by_role("button", name="Make the sheet").click()
        visitor.expect("Print it at 100%")
        assert visitor.download("Flash sheet as PDF").startswith(b"%PDF")

        visitor.go_to("Compare")
        choose(visitor, "Pictures")
        sync_api.expect(page.get_by_role("img", name="blip, step 4").first).to_be_visible()
        page.get_by_role("slider").first.focus()
        page.keyboard.press("ArrowLeft")
        sync_api.expect(page.get_by_role("slider").first).to_have_attribute("aria-valuetext", "2")
        visitor.settle()
        sync_api.expect(page.get_by_role("img", name="blip, step 2").first).to_be_visible()
        choose(visitor, "Experiments")
        visitor.expect("Params that differ")
        for picture in ("comparison of workspace", "comparison of fewer"):
            sync_api.expect(page.get_by_role("img", name=picture)).to_be_visible()
        assert visitor.wrong == []


def test_what_was_kept_and_drawn_is_there_after_the_server_was_killed(copy, chromium):
    with served(copy, signal.SIGKILL) as address:
        visitor = Visitor(chromium, address)
        visitor.go_to("Draw")
        draw(visitor, "an owl", 2)
        visitor.page.get_by_role("button", name="☆ Keep").first.click()
        visitor.expect("★ Kept")
        visitor.settle()
    with served(copy) as address:
        visitor = Visitor(chromium, address)
        visitor.go_to("Draw")
        choose(visitor, "History")
        visitor.expect("seed 8")
        choose(visitor, "Favourites")
        sync_api.expect(visitor.page.get_by_role("button", name="★ Kept")).to_have_count(1)
        assert visitor.wrong == []


@pytest.mark.parametrize(
    ("clicks", "seen"),
    [
        (("button:Bring your drawings",), "Drawings"),
        (("link:Train",), "Train"),
        (("button:Draw", "button:Draw"), "seed 14"),
        (("button:Print", "button:Make the stencil"), "Print the PDF at 100%"),
    ],
)
def test_what_a_newcomer_wants_is_at_most_three_clicks_from_the_first_screen(copy, chromium, clicks, seen):
    (copy / "runs/samples/adhoc").mkdir(parents=True)
    run("python", "-m", "app.generate", "an owl", "--variant", "blip", "--steps", "2", cwd=copy)
    assert len(clicks) <= 3
    with served(copy) as address:
        visitor = Visitor(chromium, address)
        visitor.expect("Everything is up to date.")
        for click in clicks:
            role, _, name = click.partition(":")
            visitor.page.get_by_role(role, name=name, exact=role == "button").first.click()
            visitor.settle()
        visitor.expect(seen, timeout=180)


def click_photo(visitor, alt, x, y):
    """A click on a point of the arm in made_up_photos.py, which is 700 px wide."""
    image = visitor.page.get_by_role("img", name=alt, exact=True)
    scale = image.bounding_box()["width"] / 700
    image.click(position={"x": x * scale, "y": y * scale})
    visitor.settle()


def try_on(visitor):
    """The owl on the arm, 80 mm wide, to the left of the middle."""
    owl, photo = (ROOT / "data/raw/flash/owl.png").read_bytes(), io.BytesIO()
    arm().save(photo, "PNG")
    uploads = visitor.page.locator("input[type=file]")
    uploads.nth(0).set_input_files({"name": "owl.png", "mimeType": "image/png", "buffer": owl})
    visitor.settle()
    uploads.nth(1).set_input_files({"name": "arm.png", "mimeType": "image/png", "buffer": photo.getvalue()})
    visitor.expect("Click on the two ends")
    visitor.settle()
    click_photo(visitor, "the photo", 405, 820)
    click_photo(visitor, "the photo", 495, 820)
    click_photo(visitor, "the drawing on the skin", 330, 400)


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_drawing_is_tried_on_by_clicks(project, chromium, device):
    with served(project) as address:
        visitor = Visitor(chromium, address, device)
        visitor.expect("Bring your drawings")
        visitor.go_to("Print")
        choose(visitor, "On skin")
        try_on(visitor)
        before, image = arm(), visitor.page.get_by_role("img", name="the drawing on the skin")
        tried = Image.open(io.BytesIO(visitor.download("JPEG at full size")))
        ink = np.asarray(tried.convert("L"), int)[:750] < 0.6 * np.asarray(before.convert("L"), int)[:750]
        left, right = np.flatnonzero(ink.any(axis=0))[[0, -1]]
        owl = np.asarray(Image.open(ROOT / "data/raw/flash/owl.png").convert("L")) < 128
        ends = np.flatnonzero(owl.any(axis=0))[[0, -1]]
        assert right - left == pytest.approx(80 * 90 / 23.25 * (ends[1] - ends[0]) / owl.shape[1], abs=6)
        end = visitor.page.get_by_role("radio", name="the scale's first end")
        end.click()
        visitor.settle()
        before = image.get_attribute("src")
        for _ in range(2):  # an arrow key moves the point and sets no other
            image.press("ArrowRight")
            visitor.settle()
        assert image.get_attribute("src") != before
        sync_api.expect(end).to_be_checked()
        assert visitor.wrong == []


def test_any_page_can_be_the_first_after_a_start(finished, chromium):
    for title in PAGES[1:]:
        with served(finished) as address:
            visitor = Visitor(chromium, f"{address}/{title.lower()}")
            sync_api.expect(visitor.page.get_by_role("heading", name=title, exact=True)).to_be_visible(timeout=60_000)
            visitor.settle()
            assert visitor.page.get_by_test_id("stSidebarNav").count() == 0
            # Streamlit's own scripts look for the server below the page's address first.
            assert [line for line in visitor.wrong if "404 (Not Found)" not in line] == []


def test_two_visitors_draw_at_once_and_one_waits(copy, chromium):
    with served(copy) as address:
        visitors = [Visitor(chromium, address), Visitor(chromium, address)]
        for visitor in visitors:
            visitor.go_to("Draw")
        for visitor, prompt in zip(visitors, ("an owl", "a key"), strict=True):
            visitor.page.get_by_label("Prompt", exact=True).fill(prompt)
            visitor.page.get_by_label("How many").fill("2")
        for visitor in visitors:
            visitor.page.get_by_role("button", name="Draw", exact=True).first.click()
        for visitor, prompt in zip(visitors, ("an owl", "a key"), strict=True):
            visitor.expect("seed 8", timeout=180)
            visitor.settle()
            visitor.page.get_by_role("button", name="More", exact=True).first.click()
            visitor.expect(f"Prompt: {prompt}")  # not the other's
            assert visitor.wrong == []


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_page_is_wider_than_the_window(finished, chromium, device):
    with served(finished) as address:
        visitor = Visitor(chromium, address, device)
        visitor.expect("Bring your drawings")
        for title in PAGES:
            start = time.monotonic()
            visitor.go_to(title)
            print(f"{title}: {time.monotonic() - start - 0.5:.1f} s")
            overflow = "document.querySelector('[data-testid=stMain]').scrollWidth - innerWidth"
            assert visitor.page.evaluate(overflow) <= 0, title
        assert visitor.wrong == []


def first_page(project, chromium, text):
    """Seconds from the start of the server to the text on the screen."""
    start = time.monotonic()
    with served(project) as address:
        Visitor(chromium, address).expect(text)
        return time.monotonic() - start


def test_the_first_page_takes_at_most_two_seconds_more_than_an_empty_one(finished, chromium, tmp_path):
    # An empty page takes three seconds on two busy cores: the server's start and Streamlit's own scripts.
    empty = tmp_path / "empty"
    (empty / "app").mkdir(parents=True)
    (empty / "app/dashboard.py").write_text("import streamlit as st\nst.text('empty')\n")
    shutil.copytree(finished / "app/.streamlit", empty / "app/.streamlit")
    least = min(first_page(empty, chromium, "empty") for _ in range(3))
    seen = min(first_page(finished, chromium, "Bring your drawings") for _ in range(3))
    print(f"an empty page after {least:.1f} s, the first screen after {seen:.1f} s")
    assert seen <= least + 2


def test_50_experiments_and_1000_pictures_slow_the_first_page_by_less_than_two_seconds(finished, copy, chromium):
    head = run("git", "rev-parse", "HEAD", cwd=copy).stdout.strip()
    params = (copy / "params.yaml").read_text()
    for i in range(50):
        (copy / "params.yaml").write_text(params.replace("rank: 8", f"rank: {i + 100}"))
        tree = run("git", "stash", "create", cwd=copy).stdout.strip()
        made = run("git", "commit-tree", f"{tree}^{{tree}}", "-p", head, "-m", f"{i}", cwd=copy).stdout.strip()
        run("git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/rank{i + 100}", made, cwd=copy)
    (copy / "params.yaml").write_text(params)
    picture = copy / "runs/samples/blip/eval_step0004/prompt00.png"
    for variant in ("vanilla", "blip", "blip_plus"):
        for step in range(10, 94):
            folder = copy / f"runs/samples/{variant}/eval_step{step:04d}"
            folder.mkdir()
            for prompt in range(4):
                shutil.copyfile(picture, folder / f"prompt{prompt:02d}.png")
    few = min(first_page(finished, chromium, "Bring your drawings") for _ in range(3))
    many = min(first_page(copy, chromium, "Bring your drawings") for _ in range(3))
    start = time.monotonic()
    with served(copy) as address:
        visitor = Visitor(chromium, address)
        visitor.expect("Bring your drawings")
        visitor.settle()
        visitor.go_to("Compare")
        choose(visitor, "Pictures")
        visitor.expect("an owl")
        gallery = time.monotonic() - start
        choose(visitor, "Experiments")
        visitor.expect("Params that differ")
        assert visitor.wrong == []
    compared = time.monotonic() - start
    print(f"first page after {few:.1f} s with few, {many:.1f} s with many")
    print(f"and from the start to the gallery {gallery:.1f} s, to a comparison {compared:.1f} s")
    assert many <= few + 2


@pytest.mark.parametrize("page", ["dvc_plots/index.html", "metrics/report.html"])
def test_plots_and_report_show_all_of_themselves_without_a_network(copy, chromium, page):
    run("dvc", "plots", "show", cwd=copy)
    asked = []
    window = chromium.new_context(**PHONE).new_page()
    window.on("request", lambda request: asked.append(request.url))
    window.goto((copy / page).as_uri())
    charts = 3 if page.startswith("dvc_plots") else 0
    sync_api.expect(window.locator("canvas, svg.marks")).to_have_count(charts)
    assert window.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert window.evaluate("document.images.length") >= 7
    inside = ("file:", "data:", "blob:") if charts else (f"file://{copy / page}", "data:")
    assert all(url.startswith(inside) for url in asked)
