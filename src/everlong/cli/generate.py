"""`everlong generate`: one text or file in, what the model writes after it out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everlong.cli import next_command, options

if TYPE_CHECKING:
    from everlong.cli.console import Console
    from everlong.engine.generation import GenerationResult
    from everlong.session.session import Session


def generate(
    ctx: typer.Context,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="The text to go on from.")] = None,
    prompt_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="A file with that text, of any length; - for stdin.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A file of texts, one a line, all written on together; - for stdin."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="With --prompts: how many at once.")] = 8,
    encoding: options.Encoding = None,
    template: Annotated[
        bool, typer.Option("--chat", help="Put the text as a question, through the model's chat template.")
    ] = False,
    allow_special: options.AllowSpecial = False,
    model: options.Model = "smollm2",
    memory: options.Memory = None,
    method: options.MethodName = "sinks",
    option: options.Fields = None,
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    stop: options.Stop = None,
    seed: options.Seed = None,
    chunk: options.Chunk = 512,
    dtype: options.Dtype = "auto",
    weights: options.Weights = "full",
    device: options.Device = "auto",
    threads: options.Threads = None,
    config: options.Config = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write what comes after a text, token by token.

    The text is taken as it is; --chat puts it through the model's template. --json prints one object: text,
    token_ids, seconds_per_token (median) and the memory report. With --prompts each line is written on by itself, many
    in one forward of the model, and --json prints one such object a line, with number and prompt (or error).
    """
    from everlong.cli.console import Console
    from everlong.cli.model_setup import load_model
    from everlong.session.session import Session

    console = Console(quiet, json)
    chosen = options.chosen_method(ctx, method, option)
    sampling = options.sampling(ctx)

    def opened() -> Session:
        return Session(loaded, chosen, chunk, allow_special=allow_special)

    if prompts is not None:
        texts = _prompts(prompts, prompt, prompt_file, encoding, console)
        loaded = load_model(model, dtype, device, threads, console, memory, weights)
        _write_many(texts, opened, template, sampling, batch, console)
        return
    with _prompt(prompt, prompt_file, encoding, console) as text:
        loaded = load_model(model, dtype, device, threads, console, memory, weights)
        with opened() as session:
            _write_one(ctx, session, text, template, sampling, console)


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
    from everlong.cli.many import prompts_of
    from everlong.errors import InputError

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
    from everlong.cli import many
    from everlong.engine.engine import Engine, GenerationRequest
    from everlong.errors import InputError

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
    from everlong.cli.source import TextSource
    from everlong.errors import InputError

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
    from everlong.text.chat_template import Template

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
