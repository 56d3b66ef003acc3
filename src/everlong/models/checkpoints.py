"""What is done to a model that transformers has read from a quantised checkpoint, before it is used."""

from __future__ import annotations

from typing import Any

import torch


@torch.no_grad()
def settle(model: Any) -> None:
    """One token through a quantised model: some libraries (compressed-tensors) unpack the weights at the first forward.

    After it they are what a session's fingerprint is to know.
    """
    quantised = getattr(model.config, "quantization_config", None)
    by = quantised.get("quant_method") if isinstance(quantised, dict) else getattr(quantised, "quant_method", None)
    if "compressed" in str(by) and model.device.type == "cpu":
        model(torch.zeros(1, 1, dtype=torch.long), use_cache=False)


def make_even(model: Any, dtype: Any) -> None:
    """Bring all weights into one type: transformers unpacks FP8 on a CPU, and leaves the other weights as they are."""
    if not isinstance(dtype, torch.dtype) or getattr(model.config, "quantization_config", None) is not None:
        return
    exact = (*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ()))
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.dtype != dtype and not any(part in name for part in exact):
            weight.data = weight.data.to(dtype)
    model.config.dtype = dtype
