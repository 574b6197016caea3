import io

from tattoo_lora import progress
from tattoo_lora.progress import tqdm


def test_in_a_file_a_bar_is_a_few_lines(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.05)
    file = io.StringIO()
    bar = tqdm(total=300, desc="train", file=file)
    for _ in range(300):
        bar.update()
    bar.close()
    lines = file.getvalue().split("\n")
    assert "\r" not in file.getvalue() and lines.pop() == ""
    assert lines[0].startswith("train:   0%") and lines[-1].startswith("train: 100%")
    assert len(lines) < 20 and all(lines)


def test_on_a_terminal_it_moves():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    file = Terminal()
    for _ in tqdm(range(3), file=file):
        pass
    assert "\r" in file.getvalue()
