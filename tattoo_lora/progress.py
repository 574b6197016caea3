"""The progress bar of all stages: one moving line on a terminal, a new line now and then in a file."""

import io
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm as moving_tqdm

SECONDS = 30  # between two lines in a file


class tqdm(moving_tqdm):  # noqa: N801
    """As tqdm's own, but in a file, such as a log, each state is a line of its own."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        if not self.disable and not self.fp.isatty():
            self.mininterval = self.maxinterval = SECONDS
            self.miniters, self.dynamic_miniters = 1, False

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        if file.isatty():
            return moving_tqdm.status_printer(file)
        last = []

        def print_line(state: str) -> None:
            if state and last != [state]:
                last[:] = [state]
                file.write(state.strip() + "\n")
                file.flush()

        return print_line

    def close(self) -> None:
        if not self.disable and not self.fp.isatty():
            if self.leave:
                self.display()
            # tqdm's own close would end the moving line, which is not there.
            self.sp, self.fp = lambda state: None, io.StringIO()
        super().close()
