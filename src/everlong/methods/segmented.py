"""What methods share whose window moves by whole segments, in front of a trained memory of a constant size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlong.methods.base import Method


class SegmentedMethod(Method):
    """A method with the fields `segment`, and `local`: whether the segment before is seen as well."""

    if TYPE_CHECKING:

        @property
        def segment(self) -> int:
            """Tokens of a segment; a field of the method itself."""
            ...

        @property
        def local(self) -> str:
            """segment or xl; a field of the method itself."""
            ...

    @property
    def back(self) -> int:
        """Tokens before its own segment that a token attends to."""
        return self.segment if self.local == "xl" else 0

    def controls(self) -> list[str]:
        """With the memory as it is, but emptied so often that it never holds more than the window."""
        return ["on", "off", "zeroed", f"reset:{self.segment + self.back}"]

    def layout(self) -> tuple[int, int]:
        """No sinks; at most the own segment and the one before."""
        return 0, self.segment + self.back
