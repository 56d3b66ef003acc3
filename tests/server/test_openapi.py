"""Requests that schemathesis makes of the server's own OpenAPI document: none fails the server."""

from __future__ import annotations

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core import NotSet

from everlong.server.settings import Limits

FEW = settings(max_examples=2, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
MANY = settings(FEW, max_examples=60)


def asked(client, how):
    """Try all operations; which there are."""
    schema = schemathesis.openapi.from_dict(client.app.openapi())
    seen = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        seen.add(f"{operation.method.upper()} {operation.path}")

        @how
        @given(case=operation.as_strategy())
        def ask(case):
            body = {} if isinstance(case.body, NotSet) else {"content": json.dumps(case.body)}
            answer = client.send(case.method, case.formatted_path, params=dict(case.query or {}), **body)
            assert answer.status_code < 500, (case.method, case.formatted_path, case.body, answer.text)

        ask()
    return seen


def test_no_request_of_the_document_fails_the_server(serve):
    seen = asked(serve(limits=Limits(max_tokens=2, default_tokens=2)), FEW)
    assert {
        "POST /v1/chat/completions",
        "POST /v1/sessions/{name}/rewind",
        "POST /v1/responses",
        "POST /api/chat",
    } < seen


@pytest.mark.slow(reason="sixty requests of each operation")
def test_no_request_of_many_fails_the_server(serve):
    client = serve(limits=Limits(max_tokens=2, default_tokens=2))
    asked(client, MANY)
    assert client.send("GET", "/healthz").status_code == 200
