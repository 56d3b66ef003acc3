"""What `everlong serve` refuses before it loads a model."""

from __future__ import annotations

import socket

import pytest


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "0.0.0.0"), "give --api-key-file FILE"),
        (("--port", "70000"), "port=70000: expected 1 to 65535"),
        (("--memory", "lots"), "'lots': no number of bytes"),
        (("--max-gap", "0.5"), "max_gap=0.5: must be above 1"),
        (("--api-key-file", "/nowhere"), "/nowhere: cannot be read"),
    ],
)
def test_a_mistake_is_one_line(everlong, options, said):
    ended = everlong("serve", "--model", "/nowhere", *options)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_a_port_that_is_taken_is_one_line(everlong, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# none\n")
    assert "has no keys" in everlong("serve", "--api-key-file", keys).err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = everlong("serve", "--port", taken.getsockname()[1], "--model", "/nowhere")
    assert ended.code == 2
    assert "give another --host or --port" in ended.err
