"""Runs made up for tests of reports: records as `everlong eval` writes them, without a model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

SETTINGS = {
    "transformers": {},
    "dense": {},
    "sinks": {"sinks": 4, "window": 128},
    "blocks": {"sinks": 64, "window": 128, "block": 64},
}


def record(task: str = "passkey", method: str = "blocks", **fields: Any) -> dict[str, Any]:
    """A record; `fields` are in the place of what it would say."""
    settings = fields.pop("settings", SETTINGS[method])
    named = ", ".join(f"{name}={value}" for name, value in settings.items())
    made = {
        "task": task,
        "version": 1,
        "options": {},
        "method": method,
        "settings": settings,
        "model": "smollm2",
        "id": "0",
        "length": None,
        "depth": None,
        "part": "",
        "group": "",
        "status": "ok",
        "prediction": " 12345.",
        "gold": ["12345"],
        "score": 1.0,
        "scores": {},
        "facts": {},
        "prompt_tokens": 400,
        "new_tokens": 8,
        "truncated_tokens": 0,
        "seconds": 2.0,
        "model_s": 1.9,
        "report": {
            "method": f"{method}({named})" if named else method,
            "seen_tokens": 408,
            "bytes": {"device": 1_500_000, "host": 0, "disk": 0},
        },
        "peak_rss_bytes": 1_000_000_000,
    }
    return made | fields


def refused(status: str, note: str, **fields: Any) -> dict[str, Any]:
    """A record of a sample that was not judged."""
    return record(**({"prediction": None, "score": None, "report": None, "status": status} | fields)) | {"note": note}


def perplexity(value: float, tokens: int = 100, **fields: Any) -> dict[str, Any]:
    """A record of the task ppl."""
    facts = {"nll_sum": tokens * math.log(value), "tokens": tokens, "perplexity": value, **fields.pop("facts", {})}
    return record(**({"task": "ppl", "prediction": None, "gold": None} | fields)) | {"score": 1 / value, "facts": facts}


def config(**fields: Any) -> dict[str, Any]:
    """A config; `fields` are those of the plan."""
    task = {"name": "passkey", "version": 1, "lengths": [400, 800], "depths": [0.1, 0.9], "samples": 1}
    plan = {"model": "smollm2", "dtype": "auto", "device": "auto", "chunk": 512, "threads": 1, "seed": 0, "limit": None}
    methods = [{"name": name} | fields for name, fields in SETTINGS.items()]
    return {
        "plan": plan | {"entries": [{"task": task, "methods": methods}]} | fields,
        "data": None,
        "versions": {"everlong": "0.1.0", "torch": "2.13.0"},
        "machine": {
            "system": "Linux",
            "processor": "Test CPU",
            "cores": 2,
            "threads": 1,
            "memory_bytes": 25_000_000_000,
        },
        "commit": "0123abc",
        "started": "2026-11-22T12:00:00+00:00",
    }


def write(folder: Path, records: list[dict[str, Any]], **fields: Any) -> Path:
    """The folder, with a run of these records."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(**fields)), encoding="utf-8")
    lines = [json.dumps(one) + "\n" for one in records]
    (folder / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder
