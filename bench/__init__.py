"""Speed and memory, measured: each module prints a table and says how it was taken."""

import tattoo_lora  # noqa: F401, before all others: it says in one line if packages are missing

# Folders of the full-size models; here, so that a parent process without torch does not count as a stage's memory.
BASE, BLIP, CLIP = "stable-diffusion-v1-5", "blip-image-captioning-large", "clip-vit-base-patch32"
