"""Checkpoints that take images beside text: the class that loads one, and the processor beside it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from everlong.errors import LoadError, one_line

logger = logging.getLogger(__name__)

_FILES = ("processor_config.json", "preprocessor_config.json")


def auto_class(name: str, where: dict[str, Any]) -> Any:
    """The auto class of transformers that loads a folder or hub id: of causal language models where it is one."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = where.get("config") or AutoConfig.from_pretrained(name, **where)
    causal: Any = AutoModelForCausalLM
    sees: Any = AutoModelForImageTextToText
    takes_images = type(config) in sees._model_mapping and type(config) not in causal._model_mapping
    return sees if takes_images else causal


def processor_of(model: Any, folder: Path | None) -> Any:
    """The processor in the folder of a model that takes images; None where there is none, or for other models.

    LoadError where transformers cannot make it: of a package that is not installed, for example.
    """
    from transformers import AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

    if type(model).__name__ not in CLASSES.values() or folder is None:
        return None
    if not any((folder / file).is_file() for file in _FILES):
        logger.info("%s has no processor beside it: it reads text alone", folder)
        return None
    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise LoadError(
            f"{folder}: its processor of images cannot be made ({one_line(error, 160)}); install what it names (pip "
            "install torchvision, perhaps), or remove its processor's files to read text alone"
        ) from error
