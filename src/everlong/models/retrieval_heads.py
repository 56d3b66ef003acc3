"""The retrieval heads of a model: the few attention heads that look at a fact when it is asked for.

    $EVERLONG_HOME/heads/<key>.json      what `everlong calibrate` found on this machine
    everlong/shipped/heads/<name>.json   what comes with everlong

A file belongs to the weights, not to their floating type: the key is the same for a float32 and a bfloat16 load.
Retrieval heads: arXiv 2404.15574; found by the attention mass of the question on the fact: QRHead, arXiv 2506.09944.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from everlong.environment import home
from everlong.errors import ConfigError, LoadError, SaveError, one_line
from everlong.models.fingerprint import checkpoint_digest

FORMAT = 1
BEST = 8
"""How many heads vote; with more the vote found less."""
KEPT = 32
"""How many heads a file lists."""
_SHIPPED = Path(__file__).parents[1] / "shipped" / "heads"
_MEMORY = "everlong_memory"
"""The submodule of a trained memory: it has no say in where the model's own heads look."""


@dataclass(frozen=True)
class RetrievalHeads:
    """Heads as (layer, query head), the best first, with what calibration found about them.

    `scores`: one for each head, comparable within a file only. `recall` and `recall_first`: in how many of `questions`
    about other texts, of `tokens` tokens, the vote of the best eight put the fact's block among its first four, and
    first (0 to 1; None where it was not tried). `key` says which model they are of; `date`, `versions`: how they came.
    """

    heads: tuple[tuple[int, int], ...]
    scores: tuple[float, ...]
    recall: float | None = None
    recall_first: float | None = None
    questions: int = 0
    tokens: int = 0
    seed: int = 0
    model: str = ""
    key: str = ""
    date: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    format: int = FORMAT
    shipped: bool = False

    def __post_init__(self) -> None:
        if not self.heads or len(self.heads) != len(self.scores):
            raise ConfigError(
                f"retrieval heads: {len(self.heads)} heads with {len(self.scores)} scores; expected one for each, and "
                "at least one head"
            )
        if self.format != FORMAT:
            raise ConfigError(f"retrieval heads: format {self.format}, expected {FORMAT}; calibrate again")

    def best(self, count: int = BEST) -> RetrievalHeads:
        """The same with the best `count` heads only. ConfigError for a count that is not 1 to all."""
        if not 1 <= count <= len(self.heads):
            raise ConfigError(
                f"recall_heads={count}: this model has {len(self.heads)} calibrated heads; give 1 to that"
            )
        return replace(self, heads=self.heads[:count], scores=self.scores[:count])


def key(model: Any) -> str:
    """What names the file of a model: 32 digits of the digest of its configuration and weights."""
    return checkpoint_digest(model, without=_MEMORY)[:32]


def place(model: Any) -> Path:
    """The file that `save` writes for this model."""
    return home() / "heads" / f"{key(model)}.json"


def find(model: Any) -> RetrievalHeads | None:
    """The model's retrieval heads: this machine's, else those that come with everlong; None without any.

    LoadError for a file that cannot be read.
    """
    path = place(model)
    if path.is_file():
        return read(path)
    return _shipped().get(path.stem)


def read(path: Path) -> RetrievalHeads:
    """The retrieval heads of a file. LoadError if it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _check_names(content)
        return TypeAdapter(RetrievalHeads).validate_python(content)
    except (OSError, ValueError, ValidationError) as error:
        raise LoadError(
            f"{path}: not a file of retrieval heads ({one_line(error, 120)}); remove it and run `everlong calibrate`"
        ) from None


def save(heads: RetrievalHeads, path: Path) -> Path:
    """Write the heads to a file, wholly or not at all; its path. SaveError where it cannot be written."""
    content = {name: value for name, value in asdict(heads).items() if name != "shipped"}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as partial:
            new = Path(partial) / path.name
            with new.open("w", encoding="utf-8") as file:
                file.write(json.dumps(content, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
    except OSError as error:
        raise SaveError(
            f"{path}: {error.strerror or error}; set EVERLONG_HOME to a folder with room and rights"
        ) from error
    return path


def known() -> list[str]:
    """What the models were called whose heads are known here; files that cannot be read are left out."""
    found = [heads.model for heads in _shipped().values()]
    for path in sorted((home() / "heads").glob("*.json")):
        with contextlib.suppress(LoadError):
            found.append(read(path).model)
    return found


@functools.cache
def _shipped() -> dict[str, RetrievalHeads]:
    """The heads that come with everlong, by the key of their model."""
    found = (read(path) for path in sorted(_SHIPPED.glob("*.json")))
    return {heads.key: replace(heads, shipped=True) for heads in found}


def _check_names(content: Any) -> None:
    """ValueError for a file with other names than a file of heads has."""
    known = {name for name in RetrievalHeads.__dataclass_fields__ if name != "shipped"}
    if not isinstance(content, dict) or not {"heads", "scores", "format"} <= content.keys() <= known:
        raise ValueError("its names are not those of such a file")
