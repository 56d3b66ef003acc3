"""What the sentences of a session mean, kept up to date with what it read: the voter for questions in other words.

"Who works as a truck driver?" shares no word with "drives a lorry for a living"; a sentence encoder
(models/encoder.py) finds one from the other. The text is cut at the ends of sentences and where a source begins, so
that a vector stands for one statement: of 32 facts in novels, sentences had 23 as their best piece, pieces of 32 tokens
10, and 7 with 8 more tokens on each side (benchmarks/meaning.py). Where a piece ends depends on its own tokens alone,
never on when it was encoded.

    SESSION'S FOLDER/meaning-<first 8 characters of the encoder's fingerprint>
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.errors import DamagedError
from everlong.methods.blocks.recall.meaning import FORGOTTEN, MeaningIndex
from everlong.methods.blocks.recall.piece_file import PieceFile, described
from everlong.storage.row_file import overwrite
from everlong.text.sentences import CUT, Sentences
from everlong.text.transcript import TokenRange, Transcript

if TYPE_CHECKING:
    from everlong.models.encoder import SentenceEncoder

logger = logging.getLogger(__name__)

PIECES_AT_ONCE = 128
PIECES_IN_A_BATCH = 32
"""Pieces that are encoded between two signs of progress, sorted by length into batches: a second's work."""
_PREFIX = "meaning-"


class Voted(NamedTuple):
    """Tokens `first` .. `end - 1` of a stream, and the cosine of what they mean with the question."""

    first: int
    end: int
    similarity: float


class Meaning:
    """The meaning of what one stream read; `index` has a vector for each of its pieces."""

    def __init__(self, encoder: SentenceEncoder, index: MeaningIndex | None = None) -> None:
        self.encoder = encoder
        self.index = MeaningIndex(encoder.dim) if index is None else index
        self._sentences = Sentences()

    @classmethod
    def open(cls, encoder: SentenceEncoder, folder: Path | None, writable: bool = True) -> Meaning:
        """What is kept in the folder of a session; empty where nothing is, or what is cannot be used.

        Without `folder`, or if not `writable`, what is encoded from now on stays in memory. SaveError if the file
        cannot be written.
        """
        path = None if folder is None else folder / file_name(encoder)
        if path is None or not (writable or path.exists()):
            return cls(encoder)
        try:
            file = PieceFile(path, encoder.dim, _identity(encoder), writable)
        except DamagedError as error:
            logger.warning("%s", error)
            if not writable:
                return cls(encoder)
            path.unlink()
            file = PieceFile(path, encoder.dim, _identity(encoder))
        found = cls(encoder, MeaningIndex(encoder.dim, file))
        if not writable:
            found.index.close()
        return found

    @property
    def tokens(self) -> int:
        """Tokens from the first on that have been encoded."""
        return self.index.tokens

    def update(self, transcript: Transcript, upto_token: int | None = None) -> Iterator[int]:
        """Encode what is missing of the first `upto_token` tokens; how many tokens are done, after each few pieces.

        Nothing is done until the iterator is asked. It may be left at any time: what was done stays, and the next call
        goes on there. The last sentence waits for its end, at most `sentences.MOST_TOKENS` tokens. Text that was
        replaced since is encoded again.
        """
        upto = len(transcript.ids) if upto_token is None else min(upto_token, len(transcript.ids))
        yield from self._again(transcript)
        missing = self._sentences.cut(transcript, self.tokens, upto)
        while pieces := list(islice(missing, PIECES_AT_ONCE)):
            keys = [_key(transcript, *piece) for piece in pieces]
            self.index.add(self._encoded(transcript, pieces), [piece.end for piece in pieces], keys)
            yield self.tokens
        self.index.sync()

    def vote(self, question: str, transcript: Transcript, most: int = 8) -> list[Voted]:
        """The pieces whose meaning is nearest to that of `question`, best first, at most `most`.

        Those that are not encoded yet, or not of this transcript any more, are left out.
        """
        # A question mark draws to the other questions of a text, and a dialogue has many.
        query = self.encoder.encode([question.strip().rstrip("?!. ")])[0]
        votes = self.index.votes(query)
        ends = self.index.ends
        keys = self.index.keys
        found: list[Voted] = []
        for n in np.argsort(-votes, kind="stable").tolist():
            if len(found) == most or votes[n] <= 0:
                break
            first = int(ends[n - 1]) if n else 0
            end = int(ends[n])
            if keys[n] == _key(transcript, first, end):
                found.append(Voted(first, end, float(votes[n])))
        return found

    def forget(self, spans: Iterable[TokenRange]) -> None:
        """Overwrite the vectors of all pieces that these spans touch; `update` encodes what is left of them."""
        _forget(self.index, spans)

    def fork(self) -> Meaning:
        """The same for a fork of the stream, in memory; vectors are shared."""
        return Meaning(self.encoder, self.index.fork())

    def close(self) -> None:
        """Give the file back."""
        self.index.close()

    def _again(self, transcript: Transcript) -> Iterator[int]:
        """Encode pieces anew whose tokens are not what they were; how many tokens are done, after each few pieces."""
        stale = self._stale(transcript)
        keys = self.index.keys.tolist()
        # Only forgetting changes a text in its middle. Anything else means that the stream went back and on another
        # way, and there its sentences end elsewhere.
        other = next((n for n, piece in stale if not _is_forgotten(transcript, piece, keys[n])), None)
        if other is not None:
            self.index.truncate(other)
            stale = [(n, piece) for n, piece in stale if n < other]
        for at in range(0, len(stale), PIECES_AT_ONCE):
            part = stale[at : at + PIECES_AT_ONCE]
            vectors = self._encoded(transcript, [piece for _, piece in part])
            for (n, piece), vector in zip(part, vectors, strict=True):
                self.index.put(n, vector, _key(transcript, *piece))
            yield self.tokens

    def _stale(self, transcript: Transcript) -> list[tuple[int, TokenRange]]:
        """The pieces that were encoded from other tokens than those that stand there now."""
        found = []
        first = 0
        for n, (end, key) in enumerate(zip(self.index.ends.tolist(), self.index.keys.tolist(), strict=True)):
            if key != _key(transcript, first, end):
                found.append((n, TokenRange(first, end)))
            first = end
        return found

    def _encoded(self, transcript: Transcript, pieces: Iterable[TokenRange]) -> Float[Tensor, "n dim"]:
        """Vectors of pieces; zeros for one that shows no text."""
        texts = [transcript.text(*piece).strip() for piece in pieces]
        shown = torch.tensor([bool(text) for text in texts])
        return torch.where(shown[:, None], self.encoder.encode(texts, PIECES_IN_A_BATCH), 0.0)


def file_name(encoder: SentenceEncoder) -> str:
    """The name of the file in a session's folder for the vectors of this encoder."""
    return f"{_PREFIX}{encoder.fingerprint[:8]}"


def is_meaning_file(name: str) -> bool:
    """Whether a file of a session's folder holds vectors of some encoder."""
    return name.startswith(_PREFIX)


def forget_in_folder(folder: Path, spans: Iterable[TokenRange]) -> None:
    """Overwrite what a session has forgotten in all its files of vectors, those of other encoders included.

    Needs no encoder, and may be done again. A file that cannot be used is overwritten and removed.
    """
    spans = list(spans)
    for path in sorted(folder.glob(f"{_PREFIX}*")):
        try:
            dim, identity = described(path)
            index = MeaningIndex(dim, PieceFile(path, dim, identity))
        except DamagedError:
            overwrite(path, [(0, path.stat().st_size)])
            path.unlink()
            continue
        _forget(index, spans)
        index.close()


def _forget(index: MeaningIndex, spans: Iterable[TokenRange]) -> None:
    for span in spans:
        touched = index.touching(*span)
        index.forget(touched.start, touched.stop)


def _identity(encoder: SentenceEncoder) -> bytes:
    """What vectors depend on beside the text: the encoder, and how the text is cut."""
    return hashlib.sha256(f"{encoder.fingerprint} {CUT}".encode()).digest()


def _key(transcript: Transcript, first: int, end: int) -> int:
    """What tells the tokens of a piece from others; never that of a forgotten one."""
    return zlib.crc32(transcript.ids[first:end].tobytes(), end) or FORGOTTEN + 1


def _is_forgotten(transcript: Transcript, piece: TokenRange, key: int) -> bool:
    """Whether a piece holds something that was forgotten, and is otherwise where it was."""
    if piece.end > len(transcript.ids):
        return False
    return key == FORGOTTEN or transcript.filler() in transcript.ids[piece.first : piece.end]
