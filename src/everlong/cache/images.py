"""What a stream must be for images whose tokens stand on axes of their own."""

from __future__ import annotations

from everlong.cache.stream_memory import StreamMemory
from everlong.errors import CapabilityError
from everlong.models.layout import ModelLayout
from everlong.ops.spans import Ints


def check_images(plan: ModelLayout, method: str, memory: StreamMemory | None, rows: int, pads: Ints | None) -> None:
    """CapabilityError where a stream cannot hold an image whose tokens stand on several axes."""
    if rows > 1 or pads is not None:
        raise CapabilityError(
            f"image: its tokens have positions of their own, and this batch has {rows} rows or padding; read one "
            "stream at a time"
        )
    if memory is not None and not memory.retrieves:
        raise CapabilityError(
            f"image: {method} was never tried with tokens that stand on several axes; use blocks, sinks, "
            "window or dense"
        )
    if not plan.axes_together:
        raise CapabilityError(
            "image: this model was not seen to turn the axes of an image's positions together with those of text, so "
            "that an image cannot be moved to another place; give text alone, or run the model without the cache"
        )
    for layer in plan.layers:
        if layer.temperature is not None or layer.pattern.chunked is not None:
            what = "scales its queries by their place" if layer.temperature is not None else "sees chunks of places"
            raise CapabilityError(
                f"image: layer {layer.index} {what}, which was never tried with tokens that stand on several axes; "
                "give text alone, or run the model without the cache"
            )
