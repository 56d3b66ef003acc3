"""Forms that an answer is to have, as requests name them: response_format, text.format, format, grammar."""

from __future__ import annotations

from typing import Any

from everlong.engine.grammar import Grammar
from everlong.errors import CapabilityError, ConfigError
from everlong.server.errors import refused

_ANY_OBJECT = {"type": "object"}


def of_format(given: Any, param: str) -> Grammar | None:
    """The form that a format names: text (None), json_object, or json_schema with its schema."""
    if given is None or given == "":
        return None
    kind = given.get("type") if isinstance(given, dict) else given
    if kind == "text":
        return None
    if kind in ("json_object", "json"):
        return made("json_schema", _ANY_OBJECT, param)
    if kind == "json_schema" and isinstance(given, dict):
        inner = given.get("json_schema", given)
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if not isinstance(schema, dict | bool):
            raise refused(f"{param}.schema", f"got {type(schema).__name__}, expected a JSON schema")
        return made("json_schema", schema, param)
    raise refused(param, f"{kind!r} is not known, expected text, json_object or json_schema")


def of_ollama(given: Any) -> Grammar | None:
    """The form that Ollama's `format` names: json, or a schema."""
    if isinstance(given, dict) and given:
        return made("json_schema", given, "format")
    return of_format(given or None, "format")


def of_grammar(given: str | None) -> Grammar | None:
    """A grammar as llama.cpp takes it (GBNF)."""
    return None if not given else made("gbnf", given, "grammar")


def made(form: Any, text: Any, param: str) -> Grammar:
    """A grammar; ApiError, with the field, where it cannot be followed here."""
    try:
        return Grammar(form, text) if isinstance(text, str) else Grammar.of_schema(text)
    except (CapabilityError, ConfigError, RecursionError) as error:
        raise refused(param, str(error)) from None
