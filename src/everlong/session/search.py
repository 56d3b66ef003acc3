"""Passages that hold some words, found in the ids of what a session read: no model, no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from everlong.errors import ForeignError
from everlong.library.kept_text import whole_transcript
from everlong.models.fingerprint import tokenizer_digest
from everlong.ops.recall import WordVotes, best_first
from everlong.ops.spans import Ints
from everlong.session.citations import cited
from everlong.session.recall import Candidate, Recalled, recalled
from everlong.text.tokenize import token_ids
from everlong.text.transcript import Citation, TokenRange, Transcript
from everlong.text.words import holds_word, word_classes

if TYPE_CHECKING:
    from everlong.library.catalog import Catalog, SessionRecord

RUN_TOKENS = 128
"""The ids are looked through in runs of so many tokens."""
LOOKED_AT = 40
"""So many runs are looked at for each passage that is wanted: the best may have parts of words only."""
AROUND_TOKENS = 64
"""What is shown reaches so far to either side of where the words stand, before it is cut to whole sentences."""


def search(transcript: Transcript, classes: Ints, words: list[int], said: str, top: int) -> list[Recalled]:
    """The `top` passages that hold most of `words`, weighed by how rare they are (BM25); the best first.

    `words` are the ids of what was `said`. None that only has parts of its words ("Starbuck" is no "pluck").
    """
    ids = np.frombuffer(transcript.ids, np.int32)
    starts = np.array([*range(0, len(ids), RUN_TOKENS), len(ids)], np.int64)
    votes = WordVotes(classes[ids], starts, classes[np.array(words, np.int64)].tolist())
    total = float(votes.scores.sum())
    found: list[Recalled] = []
    for run in best_first(votes.scores)[: top * LOOKED_AT]:
        token = int(starts[run]) + votes.peak(run)
        score = float(votes.scores[run])
        candidate = Candidate(run, token, score / total, "words", score / float(votes.scores.max()))
        passage = recalled(transcript, candidate, _around(transcript, token), said)
        # Words on both sides of a run's border are found twice.
        apart = all(passage.last <= other.first or other.last <= passage.first for other in found)
        if apart and holds_word(passage.text, said):
            found.append(passage)
        if len(found) == top:
            break
    return found


def _around(transcript: Transcript, token: int) -> TokenRange:
    source = max((s for s in transcript.sources if s.first <= token), key=lambda s: s.first)
    first, end = transcript.bounds(source)
    return TokenRange(max(first, token - AROUND_TOKENS), min(end, token + AROUND_TOKENS))


def search_kept(
    catalog: Catalog, entry: SessionRecord, tokenizer: Any, words: str, top: int
) -> list[tuple[Recalled, Citation]]:
    """The same in a kept session, with what its journal has behind its checkpoint; each with where its sentence stands.

    ForeignError for another model's tokenizer.
    """
    if entry.fingerprint["tokenizer"] != tokenizer_digest(tokenizer):
        raise ForeignError(
            f"session {entry.name!r}: kept with model {entry.model}; this tokenizer is another; give that model with -m"
        )
    transcript = whole_transcript(catalog, entry, tokenizer)
    if not transcript.ids:
        return []
    ids = token_ids(tokenizer, words)
    vocabulary = max(len(tokenizer), 1 + max(*transcript.ids, *ids))
    found = search(transcript, word_classes(tokenizer, vocabulary), ids, words, top)
    return [(passage, cited(transcript, passage, passage.share, passage.sentence, words)) for passage in found]
