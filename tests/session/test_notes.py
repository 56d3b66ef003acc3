"""Notes on what was read: what they are about, written once, gone on with after an interrupt, kept as a source."""

from __future__ import annotations

import pytest

from everlong import Blocks, Session, Sinks
from everlong.errors import CapabilityError, ConfigError
from everlong.library.library import Library
from everlong.session.ingest import Document, read_document
from everlong.session.named_places import WHOLE, named_spans, notes_name
from everlong.session.note_plan import NoteSettings, estimated_cost, plan_notes
from everlong.session.note_writer import NOTHING, NoteWriter, first_sentences, is_copied, tidied
from everlong.session.notes import write_notes
from everlong.text.places import found_in
from tests.session.conftest import interrupt

SMALL = {"sinks": 2, "window": 24, "block": 8, "top_k": 2, "exec_chunk": 16, "pool": 8}
SETTINGS = NoteSettings(piece_tokens=40, max_new_tokens=6, fan_in=3)
PLAIN = "The tide rose and the tide fell. It was the worst of times. Nobody knew why. " * 6
BOOK = "\n\n".join(
    f"CHAPTER {n}\n\n" + f"The gulls cried {n} times, nobody cared. " * count for n, count in ((1, 2), (2, 12), (3, 3))
)


@pytest.fixture
def long_tiny(tiny_llama, tokenizer):
    """A tiny random Llama that was trained on 512 tokens."""
    from everlong.models.load import Loaded

    return Loaded(tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=512), tokenizer, "tiny")


def read(session: Session, text: str, name: str = "books/tide.txt", digest: str = "1"):
    """The source, after `session` has read it."""
    places = []
    list(read_document(session, Document(name, digest, found_in([text], places), places), every=10**6))
    return session.transcript.sources[-1]


def lines(session: Session, name: str = "books/tide.txt") -> list[str]:
    """The lines of the notes on a source that are not forgotten."""
    transcript = session.transcript
    parts = [s for s in transcript.sources if s.name == notes_name(name) and s.digest != "gone"]
    return [line for s in parts for line in transcript.text(*transcript.bounds(s)).splitlines()]


def test_a_text_without_places_is_cut_at_sentences(long_tiny):
    with Session(long_tiny, Blocks(**SMALL), chunk=16) as session:
        source = read(session, PLAIN)
        plan = plan_notes(session.transcript, source, SETTINGS)
        pieces = [p for p in plan if not p.made_of]
        first, end = session.transcript.bounds(source)
        assert [p.tokens.first for p in pieces] == [first, *(p.tokens.end for p in pieces[:-1])]
        assert pieces[-1].tokens.end == end
        assert all(0 < p.tokens.end - p.tokens.first <= 40 for p in pieces)
        texts = [session.transcript.text(*p.tokens) for p in pieces]
        assert all(text.rstrip().endswith(".") for text in texts)
        assert [PLAIN[p.start : p.end] for p in pieces] == texts
        assert plan[-1].title == WHOLE
        assert (plan[-1].start, plan[-1].end) == (0, len(PLAIN))
        assert sorted(i for p in plan for i in p.made_of) == list(range(len(plan) - 1))
        assert all(len(p.made_of) <= 3 for p in plan)


def test_chapters_are_the_pieces_and_long_ones_have_parts(long_tiny):
    with Session(long_tiny, Blocks(**SMALL), chunk=16) as session:
        plan = plan_notes(session.transcript, read(session, BOOK), NoteSettings(80, 6, 6))
        assert [p.label for p in plan if p.label == p.title] == ["CHAPTER 1", "CHAPTER 2", "CHAPTER 3", WHOLE]
        chapter = next(p for p in plan if p.label == "CHAPTER 2")
        assert BOOK[chapter.start : chapter.end].startswith("CHAPTER 2\n")
        assert [plan[i].label for i in chapter.made_of][:1] == [f"CHAPTER 2, piece 1 of {len(chapter.made_of)}"]
        assert [plan[i].label for i in plan[-1].made_of] == ["CHAPTER 1", "CHAPTER 2", "CHAPTER 3"]


@pytest.mark.parametrize("text", ["", "The tide rose."])
def test_a_short_text_has_one_note_and_an_empty_one_none(long_tiny, text):
    with Session(long_tiny, Blocks(**SMALL), chunk=16) as session:
        source = read(session, text) if text else session.transcript.begin("books/tide.txt")
        plan = plan_notes(session.transcript, source, SETTINGS)
        assert [p.title for p in plan] == [WHOLE] * bool(text)


def test_the_estimate_is_near_what_is_planned_and_not_below_what_is_written(long_tiny):
    with Session(long_tiny, Blocks(**SMALL), chunk=16) as session:
        source = read(session, PLAIN)
        cost = estimated_cost(session.seen_tokens, SETTINGS)
        *_, last = write_notes(session, source, long_tiny, SETTINGS)
        assert abs(cost.notes - last.total) <= 2
        assert 0 < last.written_tokens <= 6 * last.total
        assert last.read_tokens > session.transcript.bounds(source)[1]


def test_notes_are_a_source_that_can_be_named_and_cited(long_tiny, tmp_path):
    with Session(long_tiny, Blocks(**SMALL), chunk=16, store=tmp_path) as session:
        source = read(session, BOOK)
        before = session.seen_tokens
        found = list(write_notes(session, source, long_tiny, NoteSettings(80, 6, 6)))
        assert [p.done for p in found] == list(range(1, found[-1].total + 1))
        assert session.seen_tokens == before + found[-1].kept_tokens
        said = lines(session)
        assert len(said) == len(found)
        start, end = BOOK.index("CHAPTER 2"), BOOK.index("CHAPTER 3")
        head = f"Notes on tide.txt, CHAPTER 2 (characters {start}-{end}):"
        assert sum(line.startswith(head) for line in said) == 1
        spans = [session.transcript.text(*span) for span in named_spans(session.transcript, "What is in chapter 2?")]
        assert spans[0].startswith("CHAPTER 2\n")
        notes = "".join(spans[1:]).splitlines()
        assert notes == [line for line in said if line.startswith("Notes on tide.txt, CHAPTER 2")]
        (whole,) = named_spans(session.transcript, "Summarise the story.")
        assert session.transcript.text(*whole).strip() == said[-1]
        session.generate("What?", max_new_tokens=2)
        assert {c.source for c in session.citations(100)} <= {"books/tide.txt", "notes: books/tide.txt"}


def test_notes_that_are_there_are_not_written_again(long_tiny, tmp_path):
    with Session(long_tiny, Blocks(**SMALL), chunk=16, store=tmp_path) as session:
        source = read(session, PLAIN)
        list(write_notes(session, source, long_tiny, SETTINGS))
        said = lines(session)
    with Session.open(tmp_path, "default", long_tiny, chunk=16) as session:
        source, before = session.transcript.sources[0], session.seen_tokens
        assert list(write_notes(session, source, long_tiny, SETTINGS)) == []
        assert session.seen_tokens == before
        assert all(p.is_new for p in write_notes(session, source, long_tiny, NoteSettings(60, 6, 3)))
        assert len(lines(session)) < len(said)
        assert session.transcript.sources[1].digest == "gone"


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_after_an_interrupt_it_goes_on_to_the_same_notes(long_tiny, tmp_path, share):
    with Session(long_tiny, Blocks(**SMALL), chunk=16, store=tmp_path, name="whole") as session:
        source = read(session, PLAIN)
        total = len(plan_notes(session.transcript, source, SETTINGS))
        list(write_notes(session, source, long_tiny, SETTINGS))
        whole = lines(session)
    with Session(long_tiny, Blocks(**SMALL), chunk=16, store=tmp_path, name="cut") as session:
        source = read(session, PLAIN)
        written = write_notes(session, source, long_tiny, SETTINGS)
        for _ in range(round(share * total)):
            next(written)
        with pytest.raises(KeyboardInterrupt), interrupt(at=300):
            next(written)
    with Session.open(tmp_path, "cut", long_tiny, chunk=16) as session:
        session.generate("What came in between?", max_new_tokens=2)
        found = list(write_notes(session, session.transcript.sources[0], long_tiny, SETTINGS))
        assert [p.is_new for p in found].index(True) >= round(share * total)
        assert lines(session) == whole
        (named,) = named_spans(session.transcript, "Summarise the story.")
        assert session.transcript.text(*named).strip() == whole[-1]


def test_a_line_that_was_cut_off_is_ended_and_written_again(long_tiny, tmp_path):
    with Session(long_tiny, Blocks(**SMALL), chunk=16, store=tmp_path) as session:
        source = read(session, PLAIN)
        written = write_notes(session, source, long_tiny, SETTINGS)
        first = next(written)
        written.close()
        session.feed("Notes on tide.txt, piece", source=notes_name(source.name))
        found = list(write_notes(session, source, long_tiny, SETTINGS))
        assert [p.is_new for p in found] == [False] + [True] * (first.total - 1)
        said = lines(session)
        assert said.pop(1) == "Notes on tide.txt, piece (cut off)"
        assert len(said) == first.total


def test_notes_of_a_changed_text_replace_the_old_ones(long_tiny, tmp_path):
    with Session(long_tiny, Blocks(**SMALL), chunk=16, store=tmp_path) as session:
        list(write_notes(session, read(session, PLAIN), long_tiny, SETTINGS))
        list(write_notes(session, read(session, "The tide rose.", digest="2"), long_tiny, SETTINGS))
        assert len(lines(session)) == 1
    library = Library(tmp_path)
    names = [(s.name, s.digest == "gone") for s in library.sources(library.entry("default"))]
    assert names == [(name, gone) for gone in (True, False) for name in ("books/tide.txt", "notes: books/tide.txt")]


def test_forgetting_a_source_forgets_the_notes_on_it(long_tiny, tmp_path):
    with Session(long_tiny, Blocks(**SMALL), chunk=16, store=tmp_path) as session:
        session.feed(PLAIN, source="before")
        list(write_notes(session, read(session, BOOK), long_tiny, SETTINGS))
        session.feed(PLAIN, source="after")
        session.forget("books/tide.txt")
        assert named_spans(session.transcript, "Summarise the story.") == []
        gone = [s for s in session.transcript.sources if s.digest == "gone"]
        assert [(s.name, s.places) for s in gone] == [("books/tide.txt", ()), ("notes: books/tide.txt", ())]


def test_a_session_without_a_store_or_blocks(long_tiny, tmp_path):
    with Session(long_tiny, Blocks(**SMALL), chunk=16) as session:
        session.feed(PLAIN[:100], source="x")
        *_, last = write_notes(session, session.transcript.sources[0], long_tiny, SETTINGS)
        assert len(lines(session, "x")) == last.total
    with Session(long_tiny, Sinks(sinks=2, window=20), chunk=16, store=tmp_path) as session:
        list(write_notes(session, read(session, PLAIN), long_tiny, SETTINGS))
        list(write_notes(session, session.transcript.sources[0], long_tiny, NoteSettings(60, 6, 3)))
        assert session.transcript.sources[1].digest == "gone"
    with Session(long_tiny, Sinks(sinks=2, window=20), chunk=16) as session:
        session.feed(PLAIN)
        with pytest.raises(CapabilityError, match="no record of what it read"):
            list(write_notes(session, session.transcript.begin("x"), long_tiny, SETTINGS))


def test_pieces_fit_the_length_that_the_model_was_trained_on(tiny_llama, tokenizer, long_tiny):
    from everlong.models.load import Loaded

    with NoteWriter(long_tiny, NoteSettings()) as writer:
        prompt = len(writer._prompt("x"))
        assert writer.settings.piece_tokens + writer.settings.max_new_tokens + prompt <= 512
        assert writer.note(PLAIN * 9)
        assert writer.read_tokens + writer.written_tokens <= 512
    small = Loaded(tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=64), tokenizer, "tiny")
    with pytest.raises(ConfigError, match="trained on 64 tokens, too few"), NoteWriter(small, NoteSettings()):
        pass


def test_each_note_is_written_in_an_empty_stream(long_tiny):
    with NoteWriter(long_tiny, SETTINGS) as writer:
        first = writer.note(PLAIN)
        writer.note(BOOK)
        assert writer.note(PLAIN) == first
        assert writer.note("") == NOTHING


def test_a_model_without_a_chat_template_goes_on_behind_the_text(long_tiny):
    import copy
    from dataclasses import replace

    plain = copy.deepcopy(long_tiny.tokenizer)
    plain.chat_template = None
    with NoteWriter(replace(long_tiny, tokenizer=plain), SETTINGS) as writer:
        assert plain.decode(writer._prompt("The tide.")) == "The tide.\n\nIn summary,"
        assert writer.note(PLAIN)


def test_notes_are_one_line_without_repeated_or_unfinished_sentences():
    assert tidied("It rose.\n It  fell. It rose. It", whole=False) == "It rose. It fell."
    assert tidied("It rose and", whole=False) == "It rose and"
    assert tidied("It rose. It", whole=True) == "It rose. It"


def test_a_note_that_only_repeats_another_gives_way_to_the_first_sentences():
    notes = ["It rose. Gulls cried.", "It fell. Nobody knew."]
    assert is_copied("It fell.", notes)
    assert is_copied(NOTHING, notes)
    assert not is_copied("It rose and fell.", notes)
    assert first_sentences([*notes, "It rose."]) == "It rose. It fell."


def test_a_note_on_notes(long_tiny, monkeypatch):
    with NoteWriter(long_tiny, SETTINGS) as writer:
        said = []
        monkeypatch.setattr(writer, "note", lambda text: said.append(text) or text.split("\n")[0])
        assert writer.note_on(["It rose. Gulls cried.", NOTHING, "It fell."]) == "It rose. It fell."
        assert writer.note_on(["It rose. Gulls cried."]) == "It rose. Gulls cried."
        assert said == ["It rose. Gulls cried.\nIt fell.", "It rose. Gulls cried."]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"piece_tokens": 0}, "piece_tokens=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"fan_in": 1}, "fan_in=1: must be at least 2"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"),
    ],
)
def test_settings_that_cannot_be(fields, message):
    with pytest.raises(ConfigError, match=message):
        NoteSettings(**fields)
