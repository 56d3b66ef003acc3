"""The model writing notes: each in a short stream of its own, with all that the note is about in view."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch

from everlong.engine.generation import end_tokens
from everlong.engine.sampling import Sampling
from everlong.errors import ConfigError
from everlong.methods.dense import Dense
from everlong.models.load import Loaded
from everlong.session.note_plan import NoteSettings
from everlong.session.session import Session
from everlong.text.chat_template import Template
from everlong.text.tokenize import token_ids

ASKED = "Summarize the text above in three sentences."
"""What the model is asked about each piece, behind it."""
NOTHING = "(the model wrote nothing)"


class NoteWriter(AbstractContextManager["NoteWriter"]):
    """Writes notes in a stream of its own, which is empty before each; counts what that takes."""

    def __init__(self, loaded: Loaded, settings: NoteSettings) -> None:
        self._tokenizer = loaded.tokenizer
        self._template = Template(loaded.tokenizer) if getattr(loaded.tokenizer, "chat_template", None) else None
        template_ends = () if self._template is None else self._template.end_tokens()
        self._ends = end_tokens(loaded.model, loaded.tokenizer) | {*template_ends}
        self.settings = self._fitting(loaded, settings)
        self._stream = Session(loaded, Dense())
        self.read_tokens = self.written_tokens = 0

    def note(self, text: str) -> str:
        """A note on a text, in one line; `NOTHING` where the model wrote none, or there is no text."""
        ids = token_ids(self._tokenizer, text)[: self.settings.piece_tokens]
        if not ids:
            return NOTHING
        if len(ids) == self.settings.piece_tokens:
            text = self._decoded(ids)
        prompt = self._prompt(text)
        self._stream.reset()
        self._stream.feed(prompt)
        ids, ended = self._written()
        self.read_tokens += len(prompt)
        self.written_tokens += len(ids)
        return tidied(self._decoded(ids), whole=ended) or NOTHING

    def note_on(self, notes: Sequence[str]) -> str:
        """A note on these notes.

        A small model may only say the first of them again. Then the first sentences of all of them stand for it, which
        says at least something of every part.
        """
        notes = [note for note in notes if note != NOTHING]
        text = self.note("\n".join(notes))
        return first_sentences(notes) if len(notes) > 1 and is_copied(text, notes) else text

    def _written(self) -> tuple[list[int], bool]:
        """The likeliest tokens of a note, and whether the model ended it.

        The repetition penalty looks at the note alone: with the piece in its view it makes the model misspell names.
        """
        sampling = Sampling(repetition_penalty=self.settings.repetition_penalty)
        ids: list[int] = []
        while (prediction := self._stream.prediction) is not None and len(ids) < self.settings.max_new_tokens:
            token = sampling.pick(prediction, torch.tensor(ids, dtype=torch.int64))
            if token in self._ends:
                return ids, True
            ids.append(token)
            self._stream.feed([token])
        return ids, False

    def _decoded(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _prompt(self, text: str) -> list[int]:
        """The ids of a text and the question behind it; for a model without a chat template, as a text to go on."""
        if self._template is None:
            return token_ids(self._tokenizer, f"{text}\n\nIn summary,", special=True)
        return self._template.opening(f"{text}\n\n{ASKED}")

    def _fitting(self, loaded: Loaded, settings: NoteSettings) -> NoteSettings:
        """The settings with pieces and notes that the model can take at once; ConfigError where there is no room."""
        trained = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
        if trained is None:
            return settings
        # A few tokens more than counted may come where a piece is decoded and tokenised again.
        room = trained - len(self._prompt("x")) - 16
        new = min(settings.max_new_tokens, room // 4)
        if room - new < 8 or new < 1:
            raise ConfigError(f"notes: the model was trained on {trained} tokens, too few for a piece and a note on it")
        piece = min(settings.piece_tokens, room - new)
        return replace(settings, piece_tokens=piece, max_new_tokens=new)

    def __exit__(self, *exc: object) -> None:
        self._stream.close()


def tidied(text: str, whole: bool) -> str:
    """A note in one line, without sentences that were said before; not `whole`: up to its last full sentence."""
    sentences = _sentences(text)
    if not whole and len(sentences) > 1 and not sentences[-1].endswith((".", "!", "?")):
        sentences = sentences[:-1]
    return " ".join(dict.fromkeys(sentences))


def is_copied(text: str, notes: Sequence[str]) -> bool:
    """Whether a text says nothing but what one of the notes says, word by word."""
    return text == NOTHING or any(all(sentence in note for sentence in _sentences(text)) for note in notes)


def first_sentences(notes: Sequence[str]) -> str:
    """The first sentence of each note, those that are equal once."""
    return " ".join(dict.fromkeys(_sentences(note)[0] for note in notes if note))


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
