"""`everlong generate`: one text or file in, what the model writes after it out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import typer

from everlong.cli import many, next_command, options
from everlong.cli.console import Console
from everlong.cli.many import prompts_of
from everlong.cli.model_setup import load_model
from everlong.cli.source import TextSource
from everlong.cli.verbs.generate import GenerateOptions
from everlong.engine.engine import Engine, GenerationRequest
from everlong.engine.generation import GenerationResult
from everlong.errors import InputError
from everlong.session.session import Session
from everlong.text.chat_template import Template


def generate(ctx: typer.Context, given: GenerateOptions) -> None:
    """Write on from the prompt, or from each of many."""
    console = Console.of(given.output)
    chosen = options.chosen_method(ctx, given.method, given.model)
    sampling = options.sampling(given.sampling)

    def opened() -> Session:
        return Session(loaded, chosen, given.chunk, allow_special=given.allow_special)

    if given.prompts is not None:
        texts = _prompts(given.prompts, given.prompt, given.prompt_file, given.encoding, console)
        loaded = load_model(given.model, given.hardware, console)
        _write_many(texts, opened, given.template, sampling, given.batch, console)
        return
    with _prompt(given.prompt, given.prompt_file, given.encoding, console) as text:
        loaded = load_model(given.model, given.hardware, console)
        with opened() as session:
            _write_one(ctx, session, text, given.template, sampling, console)


def _write_one(
    ctx: typer.Context,
    session: Session,
    text: Iterator[str],
    template: bool,
    sampling: dict[str, Any],
    console: Console,
) -> None:
    begin = _chat_prompt(session, "".join(text), sampling) if template else text
    with closing(session.stream(begin, **sampling)) as answer:
        for piece in answer:
            if not console.json:
                print(piece, end="", flush=True)
    _tell(answer.result, session, ctx, console)


def _prompts(file: str, text: str | None, text_file: str | None, encoding: str | None, console: Console) -> list[str]:
    """The lines of a file of prompts; InputError where another prompt is given too."""
    if text is not None or text_file is not None:
        raise InputError("prompt: got --prompts FILE and another prompt, expected one of them")
    with _prompt(None, file, encoding, console) as pieces:
        return prompts_of("".join(pieces), file)


def _write_many(
    texts: list[str],
    opened: Callable[[], Session],
    template: bool,
    sampling: dict[str, Any],
    batch: int,
    console: Console,
) -> None:
    def submit(engine: Engine, session: Session, text: str) -> GenerationRequest:
        own = dict(sampling)
        return engine.submit(session, _chat_prompt(session, text, own) if template else text, **own)

    failed = 0
    for written in many.write(texts, opened, submit, batch, console):
        result = written.request.result
        failed += result is None
        if console.json:
            head = {"number": written.number + 1, "prompt": written.prompt}
            answer = {"error": str(written.request.error)} if result is None else as_json(result, written.session)
            console.result(head | answer)
        elif result is None:
            console.warn(f"line {written.number + 1}: {written.request.error}")
        else:
            print(f"{written.number + 1}. {written.prompt}{result.text}\n", flush=True)
    if failed:
        raise InputError(f"prompts: {failed} of {len(texts)} lines could not be written on; mend those that are named")


@contextmanager
def _prompt(text: str | None, file: str | None, encoding: str | None, console: Console) -> Iterator[Iterator[str]]:
    """The prompt in pieces; InputError where there is none, or two."""
    if (text is None) == (file is None):
        got = "neither" if text is None else "both"
        raise InputError(f"prompt: got {got} of --prompt TEXT and --prompt-file FILE, expected one of them")
    if text is not None:
        if not text:
            raise InputError("prompt: empty; give at least one character to go on from")
        yield iter([text])
        return
    with TextSource(file or "-", encoding) as source:
        yield iter(source)
        for warning in source.warnings():
            console.warn(f"{source.name}: {warning}")


def _chat_prompt(session: Session, text: str, sampling: dict[str, Any]) -> list[int]:
    """The ids of a conversation that begins with `text`; what ends an answer in the template ends this one."""
    template = Template(session.tokenizer, allow_special=session.allow_special)
    sampling["ends"] = template.end_tokens()
    return template.opening(text)


def as_json(result: GenerationResult, session: Session) -> dict[str, Any]:
    """What --json prints of an answer."""
    median = result.seconds_per_token
    return {
        "text": result.text,
        "token_ids": result.token_ids,
        "seconds_per_token": None if math.isnan(median) else median,
        "report": session.report().as_dict(),
    }


def _tell(result: GenerationResult, session: Session, ctx: typer.Context, console: Console) -> None:
    """The result as JSON; or, after the text, what the session remembers and what to try next."""
    if console.json:
        console.result(as_json(result, session))
        return
    print()
    console.note(f"{len(result.token_ids)} tokens, {1000 * result.seconds_per_token:.1f} ms each; {session.report()}")
    if command := next_command.talk(ctx, session):
        console.note(f"Next: {command}")
