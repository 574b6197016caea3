"""Models that say what a picture shows, behind two functions: load_captioner and caption_images.

BLIP is the profiles' captioner; Florence-2 and Qwen-VL caption for variants that have a captioner of their own. All
classes are transformers' own: no code comes with a model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoTokenizer, BatchFeature, PreTrainedConfig, PreTrainedModel

from tattoo_lora.data.drawings import Drawing
from tattoo_lora.diffusion.hub import finding
from tattoo_lora.diffusion.images import squared
from tattoo_lora.diffusion.models import load_with_processor, pick_device, pick_dtype, use_threads
from tattoo_lora.diffusion.only_new import Compute, compute_new
from tattoo_lora.errors import UserError
from tattoo_lora.keys import model_key
from tattoo_lora.params import CaptionBlipParams, CaptionerParams, InferenceProfile, Model


class QwenProcessor:
    """Pictures and a question as Qwen-VL takes them; transformers' own processor needs torchvision, for videos."""

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.batch_decode = tokenizer.batch_decode

    @classmethod
    def from_pretrained(cls, model_id: str, revision: str | None, image_processor: Any) -> "QwenProcessor":
        return cls(image_processor, AutoTokenizer.from_pretrained(model_id, revision=revision))

    def __call__(self, images: list[Image.Image], text: list[str], return_tensors: str) -> BatchFeature:
        """The pictures' patches, and the questions in which each picture has a token for each merged patch."""
        features = self.image_processor(images=images, return_tensors=return_tensors)
        counts = features["image_grid_thw"].prod(dim=1) // self.image_processor.merge_size**2
        prompts = []
        for question, count in zip(text, counts.tolist(), strict=True):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            prompt = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            prompts.append(prompt.replace("<|image_pad|>", "<|image_pad|>" * count))
        tokens = self.tokenizer(prompts, padding=True, padding_side="left", return_tensors=return_tensors)
        is_image = tokens["input_ids"] == self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        return BatchFeature({**features, **tokens, "mm_token_type_ids": is_image.int()})


@dataclass(frozen=True)
class Kind:
    """The names of transformers' classes, and the prompt where params.yaml has none; empty if it takes none."""

    model: str
    processor: str | type
    image_processor: str  # processed by PIL: captions must not depend on torchvision being there
    prompt: str


QUESTION = "What does this line drawing show? Answer with one short sentence."
KINDS = {  # by the model_type of config.json
    "blip": Kind("BlipForConditionalGeneration", "BlipProcessor", "BlipImageProcessorPil", ""),
    "florence2": Kind("Florence2ForConditionalGeneration", "Florence2Processor", "CLIPImageProcessorPil", "<CAPTION>"),
    "qwen2_vl": Kind("Qwen2VLForConditionalGeneration", QwenProcessor, "Qwen2VLImageProcessorPil", QUESTION),
    "qwen2_5_vl": Kind("Qwen2_5_VLForConditionalGeneration", QwenProcessor, "Qwen2VLImageProcessorPil", QUESTION),
}


def load_captioner(model: Model) -> tuple[PreTrainedModel, Any]:
    """The captioner and its processor, as its config.json says of which kind it is; UserError for another kind."""
    with finding(model):
        config, _ = PreTrainedConfig.get_config_dict(model.id, revision=model.revision)
        if not config:
            raise OSError("config.json: not found")
    kind = KINDS.get(name := config.get("model_type"))
    if kind is None:
        raise UserError(f"{model.id}: found a model of type {name}, allowed for a captioner: {', '.join(KINDS)}")
    classes = (kind.model, kind.processor, kind.image_processor)
    return load_with_processor(model, *(getattr(transformers, c) if isinstance(c, str) else c for c in classes))


@torch.inference_mode()
def caption_images(
    model: PreTrainedModel,
    processor: Any,
    images: list[Image.Image],
    params: CaptionBlipParams | CaptionerParams,
    prompt: str | None = None,
) -> list[str]:
    """One caption for each image; greedy decoding if num_beams is 1. UserError for a prompt to BLIP."""
    kind = KINDS[model.config.model_type]
    if prompt and not kind.prompt:
        raise UserError(f"params.yaml: captioners: a {model.config.model_type} takes no prompt; set it to null")
    prompt = prompt or kind.prompt
    texts = {"text": [prompt] * len(images)} if prompt else {}
    inputs = processor(images=images, return_tensors="pt", **texts).to(model.device, model.dtype)
    tokens = model.generate(
        **inputs,
        num_beams=params.num_beams,
        max_new_tokens=params.max_new_tokens,
        do_sample=False,
    )
    if prompt and not model.config.is_encoder_decoder:
        tokens = tokens[:, inputs["input_ids"].shape[1] :]  # what follows the question
    return [caption.strip() for caption in processor.batch_decode(tokens, skip_special_tokens=True)]


def caption_new(
    source: str,
    section: str,
    captioner: CaptionerParams,
    inference: InferenceProfile,
    images_folder: Path,
    drawings: Sequence[Drawing],
) -> tuple[dict[str, str], int]:
    """The captioner's caption of each drawing by image file, and how many of them are new; the others were kept.

    `source` is the stage's Python file, `section` that of params.yaml. UserError for an empty caption.
    """
    use_threads(inference.threads)
    batch_size, device, dtype = inference.batch_size, pick_device(), pick_dtype(inference.dtype, captioner)
    asked = (captioner.prompt, captioner.max_new_tokens, captioner.num_beams)
    depends_on = (model_key(captioner), asked, batch_size, device.type, dtype)

    def load() -> Compute:
        model, processor = load_captioner(captioner)
        model.to(device, dtype)

        def compute(batch: Sequence[Drawing], images: list[Image.Image]) -> Iterator[bytes]:
            squares = [squared(image) for image in images]
            captions = caption_images(model, processor, squares, captioner, captioner.prompt)
            for drawing, caption in zip(batch, captions, strict=False):
                if not caption:
                    raise UserError(f"{drawing.file}: empty caption; raise {section}.max_new_tokens")
                yield caption.encode()

        return compute

    kept, new = compute_new(source, depends_on, images_folder, drawings, batch_size, load)
    return {file: path.read_text(encoding="utf-8") for file, path in kept.items()}, new
