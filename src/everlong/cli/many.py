"""Answers to many prompts at once: each on a stream of its own, all of them written by one engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from everlong.cli.console import Console
from everlong.engine.engine import Engine, GenerationRequest
from everlong.errors import InputError
from everlong.session.session import Session


class WrittenAnswer(NamedTuple):
    """A prompt, the request that answered it, and its session, which is closed after this."""

    number: int
    prompt: str
    request: GenerationRequest
    session: Session


def prompts_of(text: str, name: str) -> list[str]:
    """The prompts of a file: its lines that are not empty. InputError for none."""
    found = [line for line in text.splitlines() if line.strip()]
    if not found:
        raise InputError(f"{name}: has no prompts; give one on each line")
    return found


def write(
    prompts: Sequence[str],
    session: Callable[[], Session],
    submit: Callable[[Engine, Session, str], GenerationRequest],
    at_once: int,
    console: Console,
) -> Iterator[WrittenAnswer]:
    """The answers in the order of their prompts, at most `at_once` of which are being written."""
    engine = Engine()
    waiting = iter(enumerate(prompts))
    running: dict[int, WrittenAnswer] = {}
    told = 0
    opened: dict[int, Session] = {}
    try:
        with console.progress("writing", len(prompts), "answers") as advance:
            while told < len(prompts):
                while len(running) < at_once and (following := next(waiting, None)) is not None:
                    number, prompt = following
                    opened[number] = session()
                    request = submit(engine, opened[number], prompt)
                    running[number] = WrittenAnswer(number, prompt, request, opened[number])
                engine.step()
                while told in running and running[told].request.done:
                    yield running.pop(told)
                    opened.pop(told).close()
                    told += 1
                    advance(told, "")
    finally:
        for left in opened.values():
            left.close()
