"""Whatever JSON a client sends, it is answered or refused with a reason, and never fails the server."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everlong.server.settings import Limits

TEXT = st.text(max_size=8)
SIMPLE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2))
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "developer"]) | JSON
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXT | JSON}), max_size=3)
NAMES = [
    "temperature",
    "top_p",
    "top_k",
    "n",
    "stop",
    "seed",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "max_tokens",
    "max_completion_tokens",
    "echo",
    "tools",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "stream_options",
    "response_format",
    "again",
    "session",
    "suffix",
    "best_of",
    "conversation",
    "previous_response_id",
    "instructions",
    "text",
    "metadata",
    "options",
    "system",
    "model",
    "stream",
]
FIELDS = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3)
ROUTES = st.sampled_from(
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/api/chat", "/api/generate", "/v1/sessions"]
)


def test_no_request_fails_the_server(serve):
    client = serve(limits=Limits(max_tokens=2, default_tokens=2))

    @settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ROUTES, FIELDS, MESSAGES | JSON, TEXT | JSON)
    def asked(route, fields, messages, prompt):
        body = {"messages": messages, "prompt": prompt, "input": messages} | fields
        answer = client.send("POST", route, json=body)
        assert answer.status_code < 500, (route, body, answer.text)
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]

    asked()
    assert client.send("GET", "/healthz").status_code == 200


def test_names_in_paths_never_fail_the_server(serve):
    client = serve()
    for name in ("..", "%2e%2e", "a%2fb", "%00", "%0a", "x" * 300, "é", "%ff", "a%20", "🙂"):
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/citations"), ("POST", "/fork")):
            assert client.send(method, f"/v1/sessions/{name}{path}").status_code < 500
