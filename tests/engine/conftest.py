"""The tiny model with a tokenizer that the tests of sessions use."""

from tests.session.conftest import tiny, tokenizer

__all__ = ["tiny", "tokenizer"]
