"""Offsets are those of the text that was given, for every kind of tokenizer, however it was cut on its way."""

from __future__ import annotations

import itertools
import sqlite3

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from everlong import Blocks, Session
from everlong.library.library import Library
from everlong.session.ingest import Document, read_document
from everlong.session.rebuild import reread
from everlong.text.inputs import chunks, row_pieces
from everlong.text.tokenize import token_ids, token_rows
from everlong.text.transcript import TokenRange, Transcript

from .conftest import TEXT, byte_level, prefix_space
from .keeping import SMALL

WORDS = st.sampled_from(
    ["the", "Sea", "don't", ". ", "naïve", "日本語", "e\u0301", "🙂", "👩\u200d🚀", "\ufeff", "ﬁ", "Å", "각", "<|end|>"]
    + ["<s>", "<|turn|>user\n", "a" * 40, "\ufffd", "x  y"]
    + 3 * [" ", "  ", "\n", "\r\n", " " * 40]
)
TEXTS = st.one_of(st.lists(WORDS, min_size=1, max_size=60).map("".join), st.text(min_size=1, max_size=200))
PHASES = (Phase.generate,)
CHUNKS = [1, 7, 64, 512]


def trimming() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that leaves spaces out of the offsets it gives, and has tokens that end with one."""
    tokenizer = byte_level()
    core = tokenizer.backend_tokenizer
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>"],
        show_progress=False,
    )
    core.train_from_iterator(["the Sea of the Sea  x " * 9, TEXT], trainer)
    core.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")


def normalising(form: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer behind a Unicode normaliser."""
    core = byte_level().backend_tokenizer
    core.normalizer = {"NFC": normalizers.NFC(), "NFKC": normalizers.NFKC()}[form]
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")


def unigram() -> PreTrainedTokenizerFast:
    """A tokenizer of the kind of SentencePiece's unigrams, with one token for what it does not know."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.train_from_iterator(
        [TEXT],
        trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


def wordpiece() -> PreTrainedTokenizerFast:
    """A tokenizer of the kind of BERT's: lower case, no accents, no white space."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"]))
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")


class Plain:
    """A tokenizer that does not say where its tokens stand, as those written in Python."""

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer
        self.all_special_ids = tokenizer.all_special_ids
        self.added_tokens_decoder = tokenizer.added_tokens_decoder

    def __call__(self, text, **options):
        return {"input_ids": self._tokenizer(text, **options)["input_ids"]}

    def decode(self, ids, **options):
        return self._tokenizer.decode(ids, **options)

    def convert_ids_to_tokens(self, ids):
        return self._tokenizer.convert_ids_to_tokens(ids)


EXACT = {
    "bytes": byte_level,
    "begin": lambda: byte_level(begin=True),
    "trimming": trimming,
    "llama": lambda: prefix_space("llama"),
    "metaspace": lambda: prefix_space("metaspace"),
    "plain": lambda: Plain(byte_level()),
}
LOSSY = {"nfc": lambda: normalising("NFC"), "nfkc": lambda: normalising("NFKC"), "unigram": unigram, "bert": wordpiece}
_MADE: dict = {}


def made(name):
    if name not in _MADE:
        _MADE[name] = (EXACT | LOSSY)[name]()
    return _MADE[name]


def read(transcript, text, chunk, name="a"):
    """Adds `text` to the transcript as a session does."""
    found = row_pieces(text, transcript._tokenizer, 1 << 40, special=not transcript.ids)
    for rows in chunks(found, chunk):
        transcript.add(rows[:, 0].tolist(), name, rows.numpy())


def check(transcript, text, name="a"):
    """Every passage of a few tokens has the characters that it says it has; found by them, it is found again."""
    source = next(s for s in transcript.sources if s.name == name)
    first, after = transcript.bounds(source)
    for a, count in itertools.product(range(first, after, 3), (1, 2, 5, 70)):
        b = min(after, a + count)
        (found,) = transcript.passages(a, b)
        assert text[found.start : found.end] == found.text
        if found.start < found.end:
            held = transcript.tokens_of(source, found.start, found.end)
            (wide,) = transcript.passages(*held)
            assert wide.start <= found.start < found.end <= wide.end
            assert text[wide.start : wide.end] == wide.text
            assert held.first == first or transcript.passages(held.first - 1, held.first)[0].end <= found.start
            assert held.end == after or transcript.passages(held.end, held.end + 1)[0].start >= found.end
    whole = transcript.passages(first, after)[0] if after > first else None
    assert whole is None or (whole.start, whole.end, whole.text) == (0, len(text), text)


@settings(max_examples=8, derandomize=True, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(text=TEXTS, chunk=st.sampled_from(CHUNKS))
@pytest.mark.parametrize("name", EXACT)
def test_a_passage_is_the_text_at_its_offsets(name, text, chunk):
    text = text.replace("\ufffd", "?") if name == "plain" else text
    transcript = Transcript(made(name))
    read(transcript, text, chunk)
    check(transcript, text)


@settings(max_examples=8, derandomize=True, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(text=TEXTS, chunk=st.sampled_from(CHUNKS))
def test_with_the_default_models_tokenizer(smollm2, text, chunk):
    """But for texts with bytes that its vocabulary lacks, which it leaves out."""
    text = text.replace("<|end|>", "<|im_end|>").replace("<|turn|>", "<|im_start|>")
    assume(smollm2.tokenizer.decode(token_ids(smollm2.tokenizer, text)) == text)
    transcript = Transcript(smollm2.tokenizer)
    read(transcript, text, chunk)
    check(transcript, text)


@settings(max_examples=8, derandomize=True, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(TEXTS, min_size=2, max_size=3), chunk=st.sampled_from(CHUNKS))
@pytest.mark.parametrize("name", ["bytes", "trimming", "llama", "metaspace"])
def test_texts_that_are_fed_apart_are_one_source(name, texts, chunk):
    transcript = Transcript(made(name))
    for text in texts:
        read(transcript, text, chunk)
    check(transcript, "".join(texts))


def test_a_space_that_is_left_out_and_one_that_is_put_in_do_not_hide_each_other():
    transcript = Transcript(made("metaspace"))
    for text in ("    日本語", "\x18ab"):
        read(transcript, text, 7)
    check(transcript, "    日本語\x18ab")


@settings(max_examples=8, derandomize=True, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(text=TEXTS, chunk=st.sampled_from(CHUNKS))
@pytest.mark.parametrize("name", LOSSY)
def test_where_the_text_is_changed_the_offsets_are_those_of_the_tokenizer(name, text, chunk):
    tokenizer = made(name)
    transcript = Transcript(tokenizer)
    read(transcript, text, chunk)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
    assert transcript.ids.tolist() == encoded["input_ids"]
    for n, (start, end) in enumerate(encoded["offset_mapping"]):
        (found,) = transcript.passages(n, n + 1)
        assert found.start <= start
        if start < end and n + 1 < len(transcript.ids):
            assert found.end == max(e for _, e in encoded["offset_mapping"][: n + 1])
    if transcript.ids:
        assert transcript.passages(0, len(transcript.ids))[0].end == len(text)


@settings(max_examples=8, derandomize=True, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(text=TEXTS, chunk=st.sampled_from(CHUNKS))
@pytest.mark.parametrize("name", ["bytes", "llama", "nfc", "bert"])
def test_the_text_of_ids_is_their_decoded_text(name, text, chunk):
    tokenizer = made(name)
    ids = token_ids(tokenizer, text)
    whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    # Without the text nobody can tell a replacement character of its own from a character whose end is still to come.
    assume(ids and "\N{REPLACEMENT CHARACTER}" not in whole)
    transcript = Transcript(tokenizer)
    for at in range(0, len(ids), chunk):
        transcript.add(ids[at : at + chunk], "a")
    check(transcript, whole)


@settings(max_examples=8, derandomize=True, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(text=TEXTS, size=st.sampled_from([40, 100]))
@pytest.mark.parametrize("name", sorted(EXACT | LOSSY))
def test_widths_do_not_depend_on_how_a_text_is_cut(name, text, size):
    tokenizer, text = made(name), text * 8
    whole = list(token_rows([text], tokenizer))
    parts = list(token_rows([text], tokenizer, piece_chars=size, margin_chars=32))
    rows = list(itertools.chain.from_iterable(w.tolist() for w in whole))
    cut = list(itertools.chain.from_iterable(p.tolist() for p in parts))
    assert sum(width for _, width, _ in cut) in (len(text) if cut else 0, sum(width for _, width, _ in rows))
    if name in EXACT and name != "plain" and [i for i, *_ in cut] == [i for i, *_ in rows]:
        assert cut == rows


def test_characters_hit_the_right_tokens(smollm2):
    """Special tokens, an emoji of many tokens and characters of two tokens at the place that is asked for."""
    tokenizer = smollm2.tokenizer
    for middle in ("<|im_start|>user\nkey<|im_end|>", "日本語の鍵", "👩\u200d🚀", "e\u0301", "\ufeffkey\r\n"):
        text = ("ab " * 90) + middle + (" cd" * 90) + middle
        transcript = Transcript(tokenizer)
        read(transcript, text, 64)
        for at in (text.index(middle), text.rindex(middle)):
            held = transcript.tokens_of(transcript.sources[0], at, at + len(middle))
            assert middle in transcript.text(*held)
            assert held.end - held.first < 40


@pytest.fixture
def document():
    middle = "<|end|> 日本語のテキスト 🙂🙃 <s> key 71432 \r\n"
    return Document("a.txt", "1", ["\ufeffThe tide rose. " * 12 + middle + "Nobody knew, nobody cared. " * 12])


def expect(session, text):
    source = session.transcript.sources[0]
    first, after = session.transcript.bounds(source)
    for a in range(first, after, 11):
        found = session.transcript.passages(a, min(after, a + 5))[0]
        assert text[found.start : found.end] == found.text
    at = text.index("71432")
    assert session.transcript.text(*session.transcript.tokens_of(source, at, at + 5)).strip() == "71432"


@pytest.mark.parametrize("chunk", [7, 64])
def test_kept_reopened_resumed_and_forked(tiny, tmp_path, document, chunk):
    (text,) = document.texts
    with Session(tiny, Blocks(**SMALL), chunk=chunk, store=tmp_path, name="one") as session:
        for tokens in read_document(session, document, every=40):
            if tokens >= 80:
                break
        session.checkpoint()
    with Session.open(tmp_path, "one", tiny, chunk=chunk) as session:
        list(read_document(session, document))
        session.checkpoint()
        expect(session, text)
        with session.fork() as twin:
            twin.feed("and more", source="a.txt")
            expect(twin, text + "and more")
    with Session.open(tmp_path, "one", tiny, chunk=chunk) as session:
        expect(session, text)
    with Session(tiny, Blocks(**SMALL), chunk=chunk) as session:
        session.feed(iter([text[:100], text[100:]]), source="a.txt")
        session.save(tmp_path / "one.session")
    with Session.load(tmp_path / "one.session", tiny, chunk=chunk) as session:
        expect(session, text)
    library = Library(tmp_path)
    library.fork("one", "two")
    library.export("one", tmp_path / "one.tar")
    library.take(tmp_path / "one.tar", "three")
    for name in ("two", "three"):
        with Session.open(tmp_path, name, tiny, chunk=chunk, read_only=True) as session:
            expect(session, text)


def test_forgetting_and_reading_again_leave_the_offsets_of_the_rest(tiny, tmp_path, document):
    (text,) = document.texts
    at = text.index("日本語")
    with Session(tiny, Blocks(**SMALL), chunk=16, store=tmp_path, name="one") as session:
        list(read_document(session, document))
        session.feed("A question of another kind. " * 4, source="b.txt")
        first, end = session.transcript.tokens_of(session.transcript.sources[0], at, at + 8)
        session.forget("a.txt", at, at + 8)
        assert "日本語" not in session.transcript.text(0, session.seen_tokens)
        after = session.transcript.passages(end, end + 20)[0]
        assert text[after.start : after.end] == after.text
    with Session.open(tmp_path, "one", tiny, chunk=16) as session:
        assert session.transcript.passages(end, end + 20)[0] == after
    assert list(reread(Library(tmp_path), "one", tiny, 16, [TokenRange(first, end)]))
    with Session.open(tmp_path, "one", tiny, chunk=16) as session:
        assert session.transcript.passages(first, first + 20)[0] == after


def test_a_store_without_lengths_still_opens(tiny, tmp_path, document):
    (text,) = document.texts
    text = text.replace("\ufeff", "").replace("<s>", "").replace("<|end|>", "")
    with Session(tiny, Blocks(**SMALL), chunk=16, store=tmp_path, name="one") as session:
        list(read_document(session, Document("a.txt", "1", [text])))
    with sqlite3.connect(tmp_path / "everlong.db") as db:
        db.execute("DROP TABLE lengths")
    with Session.open(tmp_path, "one", tiny, chunk=16) as session:
        expect(session, text)
        session.feed("<|end|> more 🙂", source="a.txt")
        session.checkpoint()
    with Session.open(tmp_path, "one", tiny, chunk=16) as session:
        expect(session, text + "<|end|> more 🙂")


def test_a_text_and_what_was_written_after_it(tiny):
    """Citations, pins and answers of a session that was fed and asked."""
    text = "<|end|> The tide 🙂 rose\r\nand fell. " * 12
    with Session(tiny, Blocks(**SMALL), chunk=16) as session:
        session.feed(text, source="tide")
        result = session.generate("Why <|turn|> did it?", max_new_tokens=40)
        found = {c for c in session.citations(99) if c.source == "tide"}
        assert found
        assert all(text[c.start : c.end] == c.text for c in found)
        source = session.transcript.sources[-1]
        first, after = session.transcript.bounds(source)
        (answer,) = session.transcript.passages(first, after)
        assert (answer.start, answer.end, answer.text) == (0, len(result.text), result.text)
