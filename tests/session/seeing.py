"""A tiny random model that takes images, with a real processor of transformers, made here and not loaded."""

from __future__ import annotations

from typing import Any

import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.families.models import randomise
from tests.families.seeing import PATCH
from tests.families.zoo import tiny_config

START = "<|IMAGE_START|>"
END = "<|IMAGE_END|>"
WORD = "<|IMAGE_PLACEHOLDER|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}" + START + WORD + END + "{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer_of_bytes() -> Any:
    """A token for each byte, and those of a chat and of images."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": WORD, "start": START, "end": END, "turn": "<|im_start|>"},
        chat_template=TEMPLATE,
    )


def seeing_model() -> tuple[Any, Any]:
    """(model, processor): PaddleOCR-VL, whose images have tokens on three axes; 24 x 16 points are 6 tokens."""
    tokenizer = tokenizer_of_bytes()
    name = "PaddleOCRVLForConditionalGeneration"
    config = tiny_config(name)
    for field, value in {"patch_size": PATCH, "image_size": 16, "num_hidden_layers": 2}.items():
        setattr(config.vision_config, field, value)
    config.text_config.vocab_size = len(tokenizer)
    config.text_config.max_position_embeddings = 512
    config.image_token_id = tokenizer.image_token_id
    config.text_config.eos_token_id = tokenizer.eos_token_id
    model = getattr(transformers, name)(config).eval()
    randomise(model, 0.2)
    sizes = {"patch_size": PATCH, "temporal_patch_size": 1, "merge_size": 2}
    pixels = transformers.PaddleOCRVLImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 4096}, **sizes)
    processor = transformers.PaddleOCRVLProcessor(image_processor=pixels, tokenizer=tokenizer, chat_template=TEMPLATE)
    return model, processor


def picture(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (24, 16)) -> Image.Image:
    """A picture whose points differ a little."""
    made = Image.new("RGB", size, colour)
    for x in range(size[0]):
        made.putpixel((x, x % size[1]), (x * 9 % 256, 40, 90))
    return made
