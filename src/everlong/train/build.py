"""From a recipe to a model with its memory, ready to be trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from everlong.errors import ConfigError, one_line
from everlong.hooks.adapter import load
from everlong.models.load import Loaded
from everlong.train.data.corpus import book_files
from everlong.train.lora import add_lora
from everlong.train.recipe import FromScratch, Recipe
from everlong.train.tokenizer import bpe_tokenizer, closed_tokenizer


def built(recipe: Recipe, tell: Callable[[str], None]) -> Loaded:
    """The model and tokenizer that the recipe starts from; the recipe's last method.

    A model from scratch is drawn from the recipe's seed.
    """
    if recipe.scratch is None:
        loaded = load(str(recipe.model), dtype=recipe.dtype)
        if loaded.tokenizer is None:
            raise ConfigError(f"model={recipe.model}: has no tokenizer, and its data are texts; add one to its folder")
        loaded.model.requires_grad_(recipe.train == "all")
        if recipe.lora is not None:
            add_lora(loaded.model, recipe.lora, recipe.seed)
        return replace(loaded, method=recipe.method_of())
    tokenizer = _tokenizer(recipe, recipe.scratch, tell)
    model = _llama(recipe, recipe.scratch, tokenizer)
    return Loaded(model, tokenizer, "scratch", recipe.method_of())


def _tokenizer(recipe: Recipe, scratch: FromScratch, tell: Callable[[str], None]) -> Any:
    if scratch.books is not None:
        files = book_files(scratch.books)
        tell(f"training a tokenizer of {scratch.vocabulary:,} tokens on {len(files)} books")
        return bpe_tokenizer(files, scratch.vocabulary)
    texts = [text for stage in recipe.stages for _, task in stage.tasks() for text in task.texts()]
    if not texts:
        raise ConfigError("tokenizer=closed: the data of this recipe have open words; use tokenizer: bpe with books")
    return closed_tokenizer(texts)


def _llama(recipe: Recipe, scratch: FromScratch, tokenizer: Any) -> Any:
    fixed = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    fixed |= {"pad_token_id": tokenizer.pad_token_id}
    if twice := sorted(fixed.keys() & scratch.llama.keys()):
        raise ConfigError(f"llama.{twice[0]}: comes from the tokenizer; leave it out")
    known = LlamaConfig().to_dict()
    for name in scratch.llama:
        if name not in known and name != "head_dim":
            raise ConfigError(f"llama.{name}: LlamaConfig has no such field; see transformers' LlamaConfig")
    try:
        config: Any = AutoConfig.for_model("llama", **(dict(scratch.llama) | fixed))
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            return LlamaForCausalLM(config).to(getattr(torch, recipe.dtype))
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"llama: {one_line(error)}; see transformers' LlamaConfig") from None
