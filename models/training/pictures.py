"""What the scorer and the captioner see of the corpus: drawings of all hands, moved, turned and worn in many ways.

They're to name things in a hand that nobody has shown them, and in pictures that a small diffusion model has smeared.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from choices import choose
from corpus import BOX, MASTER, Corpus, Row, load_unseen, views
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


@dataclass(frozen=True)
class Subjects:
    """For each subject and medium the rows that may be learned, hand by hand: rows[name][medium] = [(kind, rows), …].

    `inked`: subjects' coloured drawings in OpenMoji's hand, which outlines in black. Their line art may be held out.
    """

    names: list[str]
    rows: dict[str, dict[str, list[tuple[str, list[int]]]]]
    inked: dict[str, int]


def find_subjects(corpus: Corpus) -> Subjects:
    """What may be learned of each subject: everything but line art that is held out."""
    rows: dict[str, dict[str, dict[tuple[str, str], list[int]]]] = {
        name: {"line": {}, "color": {}} for name in corpus.subjects
    }
    inked = {}
    for kind, medium in (("color", "color"), ("painted", "color"), ("line", "line")):
        for i, row in enumerate(corpus.rows[kind]):
            if row.subject and not (kind == "line" and row.held_out):
                rows[row.name][medium].setdefault((kind, row.hand), []).append(i)
            if row.subject and kind == "color" and row.hand == "openmoji":
                inked[row.name] = i
    listed = {
        name: {medium: [(kind, indices) for (kind, _), indices in hands.items()] for medium, hands in by_medium.items()}
        for name, by_medium in rows.items()
    }
    return Subjects(corpus.subjects, listed, inked)


def chance(share: float, generator: torch.Generator) -> bool:
    """True for `share` of the draws."""
    return bool(torch.rand((), generator=generator) < share)


def ink(picture: Tensor, generator: torch.Generator) -> Tensor:
    """(H, W, 3) uint8, the coloured picture's darkest parts alone, as a photocopier at full contrast gives them.

    OpenMoji outlines in black, so this is close to line art, made from the coloured drawing only: it
    keeps the scorer from learning that line art is never of a thing it saw in colour alone. Where an
    outline meets paint its edge is lost, so the strokes are thickened by a random share of a pixel.
    """
    share = torch.rand(2, generator=generator)
    lightest = picture.float().amax(dim=-1)
    inked = (lightest / (60 + 60 * share[0]) * 255).clamp(0, 255)
    thickened = -F.max_pool2d(-inked[None], 3, stride=1, padding=1)[0]
    return torch.lerp(inked, thickened, 0.7 * share[1])[..., None].expand(-1, -1, 3).to(torch.uint8)


def thicken(picture: Tensor, generator: torch.Generator) -> Tensor:
    """(H, W, 3) uint8 line art, its lines up to two pixels thicker or half a one thinner."""
    share = float(torch.rand((), generator=generator))
    x = picture.permute(2, 0, 1).float()
    other = -F.max_pool2d(-x, 5, stride=1, padding=2) if share > 0.25 else F.max_pool2d(x, 3, stride=1, padding=1)
    return torch.lerp(x, other, share if share > 0.25 else share * 2).permute(1, 2, 0).to(torch.uint8)


def recolor(picture: Tensor, generator: torch.Generator) -> Tensor:
    """(H, W, 3) uint8, more or less saturated and contrasted, some channels swapped: shape is to count, not paint."""
    share = torch.rand(2, generator=generator)
    grey = picture.float().mean(dim=-1, keepdim=True)
    faded = torch.lerp(grey, picture.float(), share[0])
    if chance(0.25, generator):
        faded = faded[..., torch.randperm(3, generator=generator)]
    return ((faded - 255) * (0.5 + share[1]) + 255).clamp(0, 255).to(torch.uint8)


def draw_master(corpus: Corpus, subjects: Subjects, name: str, medium: str, generator: torch.Generator) -> Tensor:
    """(MASTER, MASTER, 3) uint8: the subject in one medium, in any hand; an eighth of the line art is inked colour."""
    hands = subjects.rows[name][medium]
    if medium == "line" and (not hands or chance(1 / 8, generator)):
        return ink(corpus.color[subjects.inked[name]], generator)
    kind, rows = choose(hands, generator)
    picture = getattr(corpus, kind)[choose(rows, generator)]
    if medium == "color":
        return recolor(picture, generator) if chance(0.5, generator) else picture
    picture = picture[..., None].expand(-1, -1, 3)
    return thicken(picture, generator) if chance(0.5, generator) else picture


def turned_views(masters: Tensor, generator: torch.Generator, resolution: int) -> Tensor:
    """(B, 3, resolution, resolution) in [-1, 1] of masters (B, MASTER, MASTER, 3): moved, scaled, sheared, mirrored."""
    count = len(masters)
    turn, shear, scale, stretch, dx, dy, mirror = torch.rand((7, count), generator=generator) * 2 - 1
    angle = 0.2 * turn  # radians
    # The part of the master that is seen: its drawing's BOX and a margin of 2 to 40%.
    seen = BOX / MASTER * (1.21 + 0.19 * scale)
    x_scale, y_scale = seen * (1 + 0.1 * stretch) * torch.where(mirror > 0, 1.0, -1.0), seen * (1 - 0.1 * stretch)
    play = 0.5 * (seen - BOX / MASTER)
    rows = [
        torch.stack([x_scale * angle.cos(), y_scale * (0.15 * shear - angle.sin()), play * dx], dim=1),
        torch.stack([x_scale * angle.sin(), y_scale * angle.cos(), play * dy], dim=1),
    ]
    # Twice the resolution, then halved: a thin line is not to fall between two samples.
    fine = 2 * resolution if 2 * resolution <= MASTER else resolution
    grid = F.affine_grid(torch.stack(rows, dim=1), [count, 3, fine, fine], align_corners=False)
    dark = 255 - masters.permute(0, 3, 1, 2).float()  # outside is white
    pictures = 1 - F.grid_sample(dark, grid, align_corners=False) / 127.5
    return pictures if fine == resolution else F.avg_pool2d(pictures, 2)


def smear(pictures: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1], `share` of them as small diffusion models draw: blurred and blotched."""
    smeared = []
    for picture in pictures:
        if chance(share, generator):
            size = picture.shape[-1]
            amount = torch.rand(2, generator=generator)
            blotches = torch.randn((1, 3, 8, 8), generator=generator) * 0.3 * amount[0]
            blurred = F.interpolate(picture[None], size=round(size * (0.25 + 0.5 * float(amount[1]))), mode="area")
            blurred = F.interpolate(blurred, size=size, mode="bilinear")
            picture = (blurred + F.interpolate(blotches, size=size, mode="bilinear"))[0].clamp(-1, 1)
        smeared.append(picture)
    return torch.stack(smeared)


def draw_named(
    corpus: Corpus, subjects: Subjects, params: dict, image_size: int, generator: torch.Generator
) -> tuple[Tensor, list[str], list[str]]:
    """Pictures (B, 3, image_size, image_size) in [-1, 1], their names, and the medium of each."""
    masters, names, media = [], [], []
    for _ in range(params["batch_size"]):
        names.append(choose(subjects.names, generator))
        media.append("line" if chance(params["line_share"], generator) else "color")
        masters.append(draw_master(corpus, subjects, names[-1], media[-1], generator))
    pictures = turned_views(torch.stack(masters), generator, image_size)
    return smear(pictures, params["smeared_share"], generator), names, media


def normalize(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) as CLIP's image processor gives them, for pictures (B, 3, H, W) in [-1, 1]."""
    mean, std = torch.tensor(OPENAI_CLIP_MEAN).view(3, 1, 1), torch.tensor(OPENAI_CLIP_STD).view(3, 1, 1)
    return (pictures / 2 + 0.5 - mean) / std


def line_art(masters: Tensor, rows: list[Row], size: int) -> dict[str, tuple[Tensor, list[str]]]:
    """By hand, the subjects' pictures (B, 3, size, size), framed as the preprocess stage frames them, and names."""
    by_hand: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_hand.setdefault(row.hand, []).append(i)
    return {hand: (views(masters[i], None, size), [rows[j].name for j in i]) for hand, i in by_hand.items()}


def line_art_tests(corpus: Corpus, size: int) -> dict[str, tuple[Tensor, list[str]]]:
    """Line art that is in no training: OpenMoji's held-out drawings, and each unseen hand's."""
    rows = corpus.rows["line"]
    held_out = [i for i, row in enumerate(rows) if row.held_out]
    return line_art(corpus.line[held_out], [rows[i] for i in held_out], size) | line_art(*load_unseen(), size)
