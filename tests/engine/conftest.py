"""The tiny model with a tokenizer that the tests of sessions use."""

from tests.session.conftest import tiny as tiny
from tests.session.conftest import tokenizer as tokenizer
