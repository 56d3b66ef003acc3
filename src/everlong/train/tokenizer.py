"""Tokenizers of one's own, small enough for a model that ships: closed to a few texts, or trained on books.

Both are tokenizers of the `tokenizers` library as transformers wraps them; the folder that `save_pretrained` writes is
one that AutoTokenizer loads. One special token ends a text and pads a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from everlong.errors import ConfigError
from everlong.train.data.corpus import book_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
UNKNOWN = "<unk>"
PIECES = r" ?[A-Za-z]+|\s|[^A-Za-z\s]"
"""A word with the space before it, or one other character: a digit, a mark, white space that stands alone."""
ALWAYS = "a.\n 0123456789"
"""Digits, and what everlong tokenises to learn how a tokenizer behaves: a letter, a full stop, a line, a space."""


def closed_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A token for each word, digit, mark and lone space in these texts, in an order that only their set decides.

    Decoding gives back each text made of these words, to the character. Other words become <unk>, because text is also
    tokenised where it is cut in the middle of a word, to find a better cut; samples with one are refused (InputError).
    """
    cut = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    found = {piece for text in (ALWAYS, *texts) for piece, _ in cut.pre_tokenize_str(text)}
    vocabulary = {piece: i for i, piece in enumerate([END, UNKNOWN, *sorted(found - {END, UNKNOWN})])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer, core.decoder = cut, decoders.Fuse()
    return _wrapped(core, unk_token=UNKNOWN)


def bpe_tokenizer(files: Sequence[Path], vocabulary: int = 8192) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `vocabulary` tokens, trained on the books in these files; digits stand alone.

    The same files give the same tokenizer. InputError for a file that is no book.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary <= len(alphabet):
        raise ConfigError(f"vocabulary={vocabulary}: must be at least {len(alphabet) + 1} (every byte, and the end)")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    core.train_from_iterator(map(book_text, files), trainer)
    return _wrapped(core)


def _wrapped(core: Tokenizer, **tokens: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False, **tokens
    )
