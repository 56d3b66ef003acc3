"""Who may come in, how much they may send, and what is counted."""

from __future__ import annotations

import pytest

from everlong.errors import ConfigError
from everlong.server.settings import Limits, ServerSettings


def test_a_key_is_needed_where_there_are_keys(serve):
    client = serve(keys=("secret",))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret2"}):
        answer = client.send("GET", "/v1/models", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.send("GET", "/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
    assert client.send("GET", "/healthz").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.168.1.2", ""])
def test_other_names_of_this_machine_are_refused(serve, host):
    assert serve().send("GET", "/v1/models", headers={"Host": host}).status_code == 403


def test_pages_of_other_sites_are_refused(serve):
    client = serve()
    for origin in ("http://evil.example", "null", "http://127.0.0.1:99"):
        assert client.send("GET", "/v1/models", headers={"Origin": origin}).status_code == 403
    answer = client.send("GET", "/v1/models", headers={"Origin": "http://127.0.0.1"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    for host in ("localhost:8000", "[::1]:8000", "127.0.0.1"):
        assert client.send("GET", "/v1/models", headers={"Host": host}).status_code == 200


def test_bodies_and_queues_have_limits(serve):
    client = serve(limits=Limits(body_bytes=1000, upload_bytes=1000, queue=0))
    answer = client.chat("x" * 2000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")

    async def parts():
        for _ in range(3):
            yield b"x" * 600

    assert client.send("POST", "/v1/chat/completions", content=parts()).status_code == 413
    assert client.send("POST", "/v1/sessions/a/documents", files={"file": ("a", "x" * 2000)}).status_code == 413
    busy = client.chat("One.")
    assert (busy.status_code, busy.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(busy.headers["retry-after"]) > 0


def test_answers_are_capped(serve):
    client = serve(limits=Limits(max_tokens=4, default_tokens=3))
    assert client.chat("One.", max_tokens=100).json()["usage"]["completion_tokens"] == 4
    assert client.chat("One.", max_tokens=None).json()["usage"]["completion_tokens"] == 3
    used = client.chat("One.", max_tokens=100, max_completion_tokens=2).json()["usage"]
    assert used["completion_tokens"] == 2


def test_what_happened_is_counted(serve):
    client = serve()
    used = client.chat("One.").json()["usage"]
    client.chat("One.", n=0)
    text = client.send("GET", "/metrics").text
    assert f"everlong_completion_tokens_total {float(used['completion_tokens'])}" in text
    assert 'everlong_requests_total{route="/v1/chat/completions",status="400"} 1.0' in text
    assert "everlong_first_piece_seconds_count 1.0" in text
    assert "everlong_engine_alive 1.0" in text


def test_an_address_that_others_reach_needs_a_key():
    with pytest.raises(ConfigError, match="api-key-file"):
        ServerSettings(host="0.0.0.0")
    ServerSettings(host="0.0.0.0", keys=("k",))
    for wrong in ({"port": 70000}, {"max_gap": 1.0}, {"memory_bytes": 0}):
        with pytest.raises(ConfigError):
            ServerSettings(**wrong)
