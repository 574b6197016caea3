"""What a LoRA file says about itself, in the header fields that A1111, ComfyUI and model sites read.

`ss_*`: kohya's, https://github.com/kohya-ss/sd-scripts. `modelspec.*`: https://github.com/Stability-AI/ModelSpec 1.0.1.
No time and no commit among them: the same run must give the same bytes. A release adds its commit.
"""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass

from tattoo_lora.data.drawings import Drawing
from tattoo_lora.diffusion.hub import id_at_revision
from tattoo_lora.diffusion.lora import layer_ranks, plain_alpha
from tattoo_lora.params import Profile, TrainParams

MOST_WORDS = 100
V2_DIM = 1024  # of Stable Diffusion 2's text encoder; 768 is 1's


@dataclass(frozen=True)
class BaseKind:
    """Which Stable Diffusion the base is, in kohya's words and the specification's.

    `prediction_type` is the noise scheduler's, epsilon or v_prediction; `text_dim` the length of a token's embedding.
    Kohya's ss_v2 says that the architecture is 2's, whatever is predicted; ss_base_model_version says both.
    """

    prediction_type: str
    text_dim: int

    @property
    def is_v2(self) -> bool:
        return self.text_dim == V2_DIM

    @property
    def predicts_v(self) -> bool:
        return self.prediction_type == "v_prediction"

    @property
    def version(self) -> str:
        return f"sd_v{2 if self.is_v2 else 1}{'_v' if self.predicts_v else ''}"

    @property
    def architecture(self) -> str:
        return f"stable-diffusion-v{'1' if not self.is_v2 else '2-768-v' if self.predicts_v else '2-512'}"


def dataset_hash(drawings: list[Drawing]) -> str:
    """SHA-256 over the contents of all drawings, whatever their names and order."""
    return hashlib.sha256("".join(sorted(drawing.sha256 for drawing in drawings)).encode()).hexdigest()


def word_frequency(captions: list[str]) -> dict[str, int]:
    """How often each word stands in the captions, the most frequent first."""
    words = Counter(word for caption in captions for word in re.findall(r"[\w'-]+", caption.casefold()))
    return dict(sorted(words.items(), key=lambda item: (-item[1], item[0]))[:MOST_WORDS])


def lora_header(
    variant: str,
    trigger: str,
    captions: list[list[str]],
    drawings: list[Drawing],
    params: TrainParams,
    profile: Profile,
    base: BaseKind,
) -> dict[str, str]:
    """The fields that are known before training, all texts; captions are the drawings' own, in their order."""
    trained_on = [lines for lines, drawing in zip(captions, drawings, strict=True) if drawing.split == "train"]
    train, size = profile.train, f"{profile.resolution}x{profile.resolution}"
    frequency = word_frequency([caption for lines in trained_on for caption in lines])
    ranks = layer_ranks(train.target_modules, params.rank, params.ranks)
    conv_ranks = [rank for layer, rank in ranks.items() if layer.startswith(("conv", "proj_"))]
    return {
        "modelspec.architecture": f"{base.architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.prediction_type": "v" if base.predicts_v else base.prediction_type,
        "modelspec.resolution": size,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.tags": ", ".join(list(frequency)[:10]),
        "modelspec.title": f"tattoo-lora {variant}",
        "modelspec.trigger_phrase": trigger,
        "ss_base_model_version": base.version,
        "ss_batch_size_per_device": str(train.batch_size),
        "ss_dataset_hash": dataset_hash(drawings),
        "ss_gradient_accumulation_steps": str(train.gradient_accumulation_steps),
        "ss_learning_rate": str(train.learning_rate),
        "ss_network_alpha": str(plain_alpha(params.alpha, params.rank, params.use_rslora)),
        "ss_network_args": json.dumps({"conv_dim": str(conv_ranks[0])} if conv_ranks else {}),
        "ss_network_dim": str(params.rank),
        "ss_network_module": "networks.lora",
        "ss_num_train_images": str(len(trained_on)),
        "ss_optimizer": params.optimizer,
        "ss_output_name": f"tattoo-lora-{variant}",
        "ss_resolution": f"({profile.resolution}, {profile.resolution})",
        "ss_sd_model_name": id_at_revision(profile.base),
        "ss_seed": str(params.seed),
        "ss_tag_frequency": json.dumps({variant: frequency}, ensure_ascii=False),
        "ss_v2": str(base.is_v2),
    }
