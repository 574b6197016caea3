"""Reading the preprocessed drawings, a batch ahead of the model that works on them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps

from tattoo_lora.data.drawings import Drawing


def decoded_batches(
    folder: Path, drawings: Sequence[Drawing], batch_size: int
) -> Iterator[tuple[Sequence[Drawing], list[Image.Image]]]:
    """The drawings in batches with their RGB images; while one is worked on, the next is decoded.

    Raises OSError for a file that cannot be read, when its batch is due.
    """

    def decode(drawing: Drawing) -> Image.Image:
        with Image.open(folder / drawing.file) as image:
            return image.convert("RGB")

    batches = [drawings[start : start + batch_size] for start in range(0, len(drawings), batch_size)]
    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter while it decodes
        ahead = None
        for batch, following in zip(batches, [*batches[1:], ()], strict=True):
            images = ahead or [pool.submit(decode, drawing) for drawing in batch]
            ahead = [pool.submit(decode, drawing) for drawing in following]
            yield batch, [image.result() for image in images]


def squared(image: Image.Image) -> Image.Image:
    """The image in the middle of a square of its longer side, on the colour of its first pixel; a square as it is.

    For models that squeeze or crop what is no square.
    """
    side = max(image.size)
    return image if min(image.size) == side else ImageOps.pad(image, (side, side), color=image.getpixel((0, 0)))


def in_full_batches(images: list[Image.Image], batch_size: int) -> list[Image.Image]:
    """The images, the last repeated up to the batch's size.

    A model's arithmetic may depend on the batch's size, in the last bits: so that a drawing's result does not depend
    on how many others are new, batches are always full.
    """
    return images + [images[-1]] * (batch_size - len(images))
