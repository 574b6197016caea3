"""A result for each drawing, kept by content: a model computes only what is new since the last run."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PIL import Image

from tattoo_lora.data.drawings import Drawing
from tattoo_lora.diffusion.images import decoded_batches, in_full_batches
from tattoo_lora.diffusion.models import process_state
from tattoo_lora.keys import result_key
from tattoo_lora.memo import Memo
from tattoo_lora.progress import tqdm

RESULT = ".result"
Compute = Callable[[Sequence[Drawing], list[Image.Image]], Iterable[bytes]]


def compute_new(
    source: str,
    depends_on: tuple,
    images: Path,
    drawings: Sequence[Drawing],
    batch_size: int,
    load: Callable[[], Compute],
) -> tuple[dict[str, Path], int]:
    """The files that hold the results, by image file, and how many of them were computed.

    `source` is the stage's Python file; with `depends_on` it says what a result depends on besides its picture in the
    folder `images`. Where something is new, `load` loads the model once: what it returns gives one result for each
    drawing of a batch, whose images are filled up to `batch_size`. Under `accelerate launch` each process computes its
    share.
    """
    memo, state = Memo(Path(source).stem), process_state()
    keys = {d.file: result_key(source, *depends_on, files=[images / d.file]) for d in drawings}
    kept = {file: memo.path(key, RESULT) for file, key in keys.items()}
    new = [drawing for drawing in drawings if not kept[drawing.file].is_file()]
    state.wait_for_everyone()  # before one of them writes what another would then not find new
    if new:
        compute = load()
        with state.split_between_processes(new) as share:
            progress = tqdm(total=len(share), unit="drawing", desc=memo.folder.name, disable=not state.is_main_process)
            for batch, pictures in decoded_batches(images, share, batch_size):
                for drawing, result in zip(batch, compute(batch, in_full_batches(pictures, batch_size)), strict=True):
                    memo.write(keys[drawing.file], RESULT, result)
                progress.update(len(batch))
            progress.close()
    state.wait_for_everyone()
    return kept, len(new)
