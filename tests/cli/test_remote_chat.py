"""A chat whose session is on a server."""

from __future__ import annotations

import json

import pytest

from everlong import Sinks
from tests.server.conftest import tiny_model
from tests.server.test_live import alive

__all__ = ["tiny_model"]


def test_a_conversation_goes_on_in_a_session_of_the_server(everlong, tiny_model, tmp_path):
    with alive(tiny_model, tmp_path, Sinks(sinks=3, window=60)) as (url, _):
        asked = ("chat", "--server", url, "--session", "a", "--max-new-tokens", "4", "--json", "--temperature", "0")
        first = everlong(*asked, stdin=b"The tide rose.\n\nAnd?\n/exit\nNever said.\n")
        assert first.code == 0
        one, two = (json.loads(line) for line in first.out.splitlines())
        cached = two["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached == one["usage"]["memory"]["seen_tokens"]
        plain = everlong("chat", "--server", url, "--session", "b", "--max-new-tokens", "4", stdin=b"One.\n")
        assert f"everlong chat --server {url} --session b" in plain.err
        assert plain.code == 0
        assert plain.out.strip()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--server", "ftp://x"), "expected an address"),
        (("--server", "http://127.0.0.1:1", "--model", "x"), "model: has no effect with --server"),
        (("--server", "http://127.0.0.1:1", "--list"), "list: has no effect with --server"),
    ],
)
def test_what_makes_no_sense_is_one_line(everlong, options, said):
    ended = everlong("chat", *options)
    assert ended.code == 2
    assert said in ended.err


def test_a_server_that_is_not_there_is_one_line(everlong):
    ended = everlong("chat", "--server", "http://127.0.0.1:1", stdin=b"One.\n")
    assert "start it with `everlong serve`" in ended.err
