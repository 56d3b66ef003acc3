"""From the shared options to a model and a session, with the libraries' own noise turned off."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everlong.cli.console import Console
    from everlong.methods.base import Method
    from everlong.models.load import Loaded
    from everlong.session.session import Session


@dataclass(frozen=True)
class Setup:
    """What the shared options say."""

    model: str
    method: Method
    dtype: str
    device: str
    threads: int | None
    console: Console

    def load(self) -> Loaded:
        """The model, after torch got its threads."""
        import torch

        from everlong.models.load import load

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        self._hush()
        self.console.note(f"Loading {self.model} ...")
        return load(self.model, self.dtype, self.device)

    @contextmanager
    def session(self, chunk: int, loaded: Loaded | None = None) -> Iterator[Session]:
        """A session over the model, closed at the end."""
        from everlong.session.session import Session

        with Session(loaded or self.load(), self.method, chunk=chunk) as session:
            yield session

    def _hush(self) -> None:
        """Turns off the bars and logs of the libraries; everlong's own log goes to stderr unless quiet."""
        import transformers

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        warnings.filterwarnings("ignore", module=r"(transformers|torch|huggingface_hub|tokenizers)\b")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("everlong: %(message)s"))
        own = logging.getLogger("everlong")
        own.handlers[:] = [handler]
        own.setLevel(logging.INFO if self.console.talks else logging.WARNING)
        own.propagate = False
