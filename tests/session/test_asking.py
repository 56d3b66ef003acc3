"""Questions to a session: two ways to answer, what is shown and cited, and what the session keeps of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from everlong import Blocks, Dense, Session, Sinks
from everlong.engine import recall_index
from everlong.engine.sampling import Sampling
from everlong.errors import CapabilityError, ConfigError, InputError
from everlong.models import retrieval_heads
from everlong.models.encoder import SentenceEncoder
from everlong.session import asking, found, recall, reply
from everlong.session.chat import Chat
from everlong.session.found import Found, in_order
from everlong.session.recall import Candidate
from everlong.text.places import Place
from everlong.text.transcript import TokenRange
from everlong.text.words import holds_word

SMALL = {"sinks": 4, "window": 32, "block": 16, "top_k": 4, "exec_chunk": 32, "pool": 8, "recall_slots": 2}
DULL = "It was the best of times, it was the worst of times; the tide rose and the tide fell. "
FACT = "The gulls of Lima sleep in crate 7342. "
TEXT = DULL * 6 + FACT + DULL * 8
QUESTION = "The gulls of Lima sleep in which crate?"


@pytest.fixture(autouse=True)
def _calibrated(monkeypatch):
    heads = retrieval_heads.RetrievalHeads(((0, 1), (1, 2)), (0.5, 0.5))
    monkeypatch.setattr(recall_index, "find", lambda model: heads)


@pytest.fixture
def session(tiny):
    with Session(tiny, Blocks(**SMALL), chunk=16) as session:
        session.feed(TEXT, source="gulls.txt")
        yield session


def read(session: Session) -> str:
    return session.tokenizer.decode(session.recent.ids())


def test_the_passage_of_the_fact_is_read_again_before_the_question(session):
    with session.pose(QUESTION) as posed:
        prompt = read(posed.session)
        assert posed.recall.way == "again"
        (passage,) = posed.recall.shown
        assert "gulls of Lima sleep in crate 734" in passage.text
        assert prompt.startswith("<|turn|>user\nPassage 1, from gulls.txt:\n")
        assert prompt.endswith(f"\n\nQuestion: {QUESTION}<|end|>\n<|turn|>assistant\n")
        assert passage.text in prompt


def test_raw_questions_follow_sinks_and_passages(session):
    with session.pose(" The gulls of Lima sleep in crate", again=1, raw=True) as posed:
        prompt = read(posed.session)
    assert prompt.startswith(session.transcript.text(0, 4) + "\n\nPassage 1, from gulls.txt:\n")
    assert prompt.endswith(" The gulls of Lima sleep in crate")


def test_what_passages_say_is_read_again_before_the_question(tiny, monkeypatch):
    old = "The gulls of Lima sleep in crate 7342."
    new = "The gulls of Lima sleep in crate 5118."
    # So short passages as of a model that was trained on 256 tokens hold no whole sentence.
    monkeypatch.setattr(asking, "trained_length", lambda session: 2048)
    monkeypatch.setattr(found, "trained_length", lambda session: 2048)
    with Session(tiny, Blocks(**SMALL | {"block": 64, "window": 128}), chunk=32) as session:
        session.feed(f"{DULL * 6}{old} {DULL * 8}", source="old.txt")
        session.feed(f"{DULL * 6}{new} {DULL * 8}", source="new.txt")
        with session.pose(QUESTION) as posed:
            prompt = read(posed.session)
            assert [p.source for p in posed.recall.shown] == ["old.txt", "new.txt"]
        assert f"\n\n{old}\n\n{new}\n\nQuestion: {QUESTION}<|end|>" in prompt
        assert prompt.count(old) == prompt.count(new) == 2
        with session.pose(QUESTION, again=1) as posed:
            prompt = read(posed.session)
            (passage,) = posed.recall.shown
        assert prompt.count(passage.sentence) == 3
        monkeypatch.setattr(asking, "SAID_AGAIN_TOKENS", 4)
        with session.pose(QUESTION) as posed:
            assert read(posed.session).count(old) == 1


class _Lorries(SentenceEncoder):
    """A sentence encoder that knows what lorries and trucks are."""

    def __init__(self):
        self.name, self.fingerprint, self.dim = "lorries", "0" * 64, 8

    def encode(self, texts, batch=32):
        return torch.nn.functional.one_hot(
            torch.tensor([any(w in t for w in ("lorry", "truck")) for t in texts]).long(), self.dim
        ).float()


def test_a_sentence_found_by_its_meaning_is_read_alone(tiny):
    said = "Mona drives a lorry for a living. "
    with Session(tiny, Blocks(**SMALL), chunk=16) as session:
        session.feed(DULL * 6 + said + DULL * 8, source="lorries.txt")
        for _ in session.use_encoder(_Lorries()):
            pass
        with session.pose("Who ?truck") as posed:
            (passage,) = posed.recall.shown
            assert passage.voter == "meaning"
            assert passage.text.strip() == said.strip()
            assert posed.recall.passages[0].sentence.strip() == said.strip()


def test_asking_leaves_the_session_as_it_was(session, tiny):
    before, seen = session.report(), session.seen_tokens
    for again in (0, 1, 2, "auto"):
        reply = session.ask(QUESTION, again=again, max_new_tokens=4)
        assert reply.text == reply.result.text
        assert session.seen_tokens == seen
        assert session.report() == before
    with Session(tiny, Blocks(**SMALL), chunk=16) as other:
        other.feed(TEXT, source="gulls.txt")
        assert torch.equal(session.score(TEXT)[1:], other.score(TEXT)[1:])


def test_the_report_of_a_reply_says_what_was_read_again(session):
    reply = session.ask(QUESTION, max_new_tokens=2)
    shown = reply.recall.shown
    assert reply.report.reread_tokens == sum(p.last - p.first for p in shown) > 0
    assert reply.report.seen_tokens == session.seen_tokens
    assert "read again" in str(reply.report)


def test_blocks_are_held_for_the_copy_alone(session):
    with session.pose(QUESTION, again=0) as posed:
        row = posed.session.stored("test").rows[0]
        assert row.recalled == frozenset(posed.recall.blocks)
        fact = session.transcript.tokens_of(session.transcript.sources[0], TEXT.index(FACT), TEXT.index(FACT) + 10)
        first, end = posed.session.stored("test").rows[0].block_range(posed.recall.blocks[0])
        assert first - 16 <= fact.first < end + 16
    assert not session.stored("test").rows[0].recalled


def test_blocks_are_chosen_again_while_a_long_reply_is_written(session, monkeypatch):
    other = "The lamps of Oslo burn in shed 5518. "
    session.feed(other + DULL * 8, source="lamps.txt")
    said = session.tokenizer(" The lamps of Oslo burn in shed", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(reply, "CHOOSE_TOKENS", len(said))
    drawn = iter([*said, *said])
    monkeypatch.setattr(Sampling, "pick", lambda self, *seen: next(drawn))
    asked = session.ask(QUESTION, again=0, max_new_tokens=len(said) + 1)
    held = asked.recall.blocks
    assert not any("lamps of Oslo" in passage.text for passage in asked.recall.shown)
    assert asked.text.startswith(" The lamps of Oslo burn in shed")
    assert set(held) < set(asked.recall.blocks)
    assert any("lamps of Oslo" in passage.text for passage in asked.recall.shown)


def test_a_short_reply_keeps_the_blocks_of_its_question(session):
    asked = session.ask(QUESTION, again=0, max_new_tokens=4)
    held = asked.recall
    assert asked.text is not None
    assert asked.recall is held


def test_citations_are_whole_passages_of_the_source(session):
    reply = session.ask(QUESTION, max_new_tokens=2)
    cited = reply.citations(3)
    assert any("gulls of Lima" in citation.sentence for citation in cited)
    for citation in cited:
        assert citation.source == "gulls.txt"
        assert TEXT[citation.start : citation.end] == citation.text
    assert sum(c.mass for c in reply.citations(99)) == pytest.approx(1)


def test_passages_begin_and_end_with_a_sentence(session, monkeypatch):
    monkeypatch.setattr(found, "trained_length", lambda session: 2048)
    shown = session.recall(QUESTION).shown
    assert shown
    assert 0 < shown[0].start < shown[0].end < len(TEXT) - len(DULL)
    for passage in shown:
        assert passage.text.strip().startswith(("It was", "The gulls"))
        assert passage.text.endswith(".")
        assert TEXT[passage.start : passage.end] == passage.text


@pytest.mark.parametrize("again", [0, 2])
def test_question_and_answer_are_kept_if_asked_for(session, again):
    before = session.seen_tokens
    reply = session.ask(QUESTION, again=again, keep=True, max_new_tokens=3)
    text = reply.text
    kept = session.transcript.text(before, session.seen_tokens)
    assert "Passage 1" not in kept
    assert QUESTION in kept
    assert kept.endswith(text + "\n")
    assert [s.name for s in session.transcript.sources] == ["gulls.txt", "prompt", "answer", "prompt"]


def test_a_chat_reads_passages_again_in_a_copy(session):
    chat = Chat(session)
    before = session.seen_tokens
    said = chat.say(QUESTION, max_new_tokens=3)
    assert any("crate 734" in passage.text for passage in chat.recall.shown)
    kept = session.transcript.text(before, session.seen_tokens)
    assert "Passage 1" not in kept
    assert f"user\n{QUESTION}" in kept
    assert said.text in kept
    assert chat.undo()
    assert session.seen_tokens == before


@pytest.fixture
def voted(monkeypatch):
    """The questions that are put to the voters, as texts."""
    found: list[str] = []
    init = recall.Ballot.__init__

    def noted(self, session, question, *rest, **more):
        found.append(session.tokenizer.decode(question))
        init(self, session, question, *rest, **more)

    monkeypatch.setattr(recall.Ballot, "__init__", noted)
    return found


@pytest.mark.parametrize("again", [0, 2])
def test_a_message_is_put_to_one_vote_by_its_own_words(session, voted, again):
    chat = Chat(session, again=again)
    for _ in range(2):
        voted.clear()
        turn = chat.stream(QUESTION, max_new_tokens=3)
        assert voted == [QUESTION]
        assert chat.recall.way == ("again" if again else "blocks")
        held = session.stored("test").rows[0].recalled
        assert held == (frozenset() if again else frozenset(chat.recall.blocks))
        turn.close()


def test_the_first_message_of_a_chat_is_answered_as_a_question_is(session):
    said = Chat(session).say(QUESTION, max_new_tokens=8)
    assert said.token_ids != []
    assert said.text == session.fork().ask(QUESTION, max_new_tokens=8).text


def test_a_message_longer_than_the_window_is_put_to_the_vote_behind_itself(session, voted):
    Chat(session).say("The lamps of Oslo burn in shed 5518. " + DULL * 12 + QUESTION, max_new_tokens=2)
    (asked,) = voted
    assert QUESTION in asked
    assert "lamps" not in asked


def test_a_named_chapter_is_where_passages_come_from(tiny):
    numbers = ("I", "II", "III")
    chapters = [f"CHAPTER {n}\n\nThe gulls of port {n} sleep in crate {n}42. {DULL * 3}\n\n" for n in numbers]
    text = DULL * 2 + "".join(chapters) + DULL * 3
    with Session(tiny, Blocks(**SMALL), chunk=16) as session:
        session.feed(text, source="ports.txt")
        starts = [text.index(chapter) for chapter in chapters]
        places = [Place("chapter", f"CHAPTER {n}", at, 1) for n, at in zip(numbers, starts, strict=True)]
        session.transcript.sources[0].places = tuple(places)
        found = session.recall("Where do the gulls sleep in chapter 2?")
        assert found.stands_out
        assert found.passages
        for passage in found.passages:
            assert starts[1] - 20 <= passage.start
            assert passage.end <= starts[2] + 20
        everywhere = session.recall("Where do the gulls sleep?")
        assert any(passage.end <= starts[1] for passage in everywhere.passages)


def test_search_finds_words_without_a_vote(session):
    found = session.search("gulls Lima", top=3)
    assert "gulls of Lima" in found[0].sentence
    assert session.search("zzzz") == []


def test_a_passage_with_parts_of_a_word_alone_is_not_found(session):
    assert session.search("Malin") == []
    assert session.search("Malin gulls")[0].sentence.startswith("The gulls of Lima")


def test_words_are_found_in_either_case_and_of_chinese_each_letter():
    assert holds_word("GULLS of Lima.", "gulls?")
    assert not holds_word("He plucked a star.", "Starbuck")
    assert holds_word("白色的大鲸", "白鲸")
    assert holds_word("anything", "?!")


def test_control_tokens_of_a_text_are_not_read_again(tiny):
    with Session(tiny, Blocks(**SMALL), chunk=16) as session:
        session.feed(DULL * 5 + "The gulls of Lima <|end|><|turn|> sleep in crate 7. " + DULL * 5)
        with session.pose(QUESTION, again=1) as posed:
            assert "gulls of Lima" in posed.recall.shown[0].text
            assert posed.session.recent.ids().tolist().count(0) == 1
    with Session(tiny, Blocks(**SMALL), chunk=16, allow_special=True) as session:
        session.feed(DULL * 5 + "The gulls of Lima <|end|><|turn|> sleep in crate 7. " + DULL * 5)
        with session.pose(QUESTION, again=1) as posed:
            assert posed.session.recent.ids().tolist().count(0) == 1


def test_passages_are_read_in_their_order_and_no_token_twice():
    assert order([TokenRange(300, 340), TokenRange(100, 140), TokenRange(200, 240)]) == [100, 200, 300]
    assert order([TokenRange(100, 140), TokenRange(120, 160), TokenRange(300, 340)]) == [100, 140, 300]


def order(spans, hop=None):
    found = in_order([Candidate(n, 0, 0.1, "words", 1.0, hop=n == hop) for n in range(len(spans))], spans)
    return [span.first for _, span in found]


def test_what_a_passage_leads_to_is_read_last(session, monkeypatch):
    session.feed(DULL * 16, source="later.txt")
    first = session.transcript.sources[-1].first
    memory = session.stored("test")
    (block, *_) = memory.rows[0].blocks_within(first, session.seen_tokens)
    led = []

    def hop(ballot, sentence, span):
        led.append(sentence)
        return block, memory.rows[0].block_range(block)[0] + 8, 0.8

    monkeypatch.setattr("everlong.session.found.next_hop", hop)
    with session.pose(" The gulls of Lima sleep in crate 7342.", raw=True) as posed:
        sources = [passage.source for passage in posed.recall.shown]
    assert sources == ["gulls.txt", "later.txt"]
    assert "gulls of Lima" in led[0]
    assert order([TokenRange(300, 340), TokenRange(100, 140)], hop=1) == [300, 100]


def test_the_sentence_that_another_leads_to_is_read_again_and_cited(tiny, monkeypatch):
    first = "The diary of Godwin Fairweather, the surgeon of Aldersgate: the violet chest."
    second = "The violet chest is in the attic."
    # It has a word of the question, which what is led to has not.
    text = f"{DULL * 8}A surgeon was late. {second} {DULL * 8}"
    monkeypatch.setattr(asking, "trained_length", lambda session: 2048)
    monkeypatch.setattr(found, "trained_length", lambda session: 2048)
    # Words alone vote: nothing is to be learnt from heads of random weights.
    monkeypatch.setattr(recall_index, "find", lambda model: None)

    def hop(ballot, sentence, span):
        assert sentence == first
        source = session.transcript.sources[-1]
        at = text.index("violet")
        token = session.transcript.tokens_of(source, at, at + 6).first
        (block,) = session.stored("test").rows[0].blocks_within(token - 64, token + 64)[:1]
        return block, token, 0.8

    monkeypatch.setattr("everlong.session.found.next_hop", hop)
    with Session(tiny, Blocks(**SMALL | {"block": 64, "window": 128}), chunk=32) as session:
        session.feed(f"{DULL * 8}{first} {DULL * 8}", source="first.txt")
        session.feed(text, source="second.txt")
        with session.pose("Where is the diary of Godwin Fairweather, the surgeon of Aldersgate?") as posed:
            prompt = read(posed.session)
            assert [(p.sentence, p.hop) for p in posed.recall.shown] == [(first, False), (second, True)]
    assert f"\n\n{first}\n\n{second}\n\nQuestion: Where is" in prompt


def test_a_passage_far_behind_the_best_is_not_read_again(session):
    other = "The gulls of Lima sleep in shed 5518 now. " + DULL * 8
    alone = session.pose(" The gulls of Lima sleep in crate 7342.", again=4, raw=True)
    session.feed(other, source="later.txt")
    both = session.pose(" The gulls of Lima sleep in", again=4, raw=True)
    with alone, both:
        sources = [{passage.source for passage in posed.recall.shown} for posed in (alone, both)]
        assert "later.txt" in sources[1]
        assert len(alone.recall.shown) < 4
        assert [p.near for p in alone.recall.passages].count(False) > 4


def test_beyond_two_passages_only_strong_ones_are_read_again():
    # The fourth is near to the heads alone, the fifth to nobody.
    votes = [(1.0, True), (0.3, True), (0.8, True), (0.4, True), (0.9, False), (0.7, True)]
    voted = SimpleNamespace(candidates=[Candidate(n, 0, 0.1, "both", *vote) for n, vote in enumerate(votes)])
    assert Found.chosen(voted, 1) == [0]
    assert Found.chosen(voted, 2) == [0, 1]
    assert Found.chosen(voted, 3) == [0, 1, 2]
    assert Found.chosen(voted, 4) == [0, 1, 2, 5]


def test_what_cannot_be_asked_is_said(session, tiny):
    with pytest.raises(InputError, match="empty"):
        session.ask("  ")
    with pytest.raises(ConfigError, match="again=-1"):
        session.ask(QUESTION, again=-1)
    with Session(tiny, Sinks(sinks=2, window=60), chunk=16) as plain:
        plain.feed(DULL)
        assert plain.ask(QUESTION, max_new_tokens=2).recall is None
        with pytest.raises(ConfigError, match="does not recall"):
            plain.ask(QUESTION, again=2)
        with pytest.raises(CapabilityError, match="does not recall"):
            plain.recall(QUESTION)
    with Session(tiny, Blocks(**SMALL, keep="ids"), chunk=16) as bare:
        bare.feed(TEXT)
        with pytest.raises(ConfigError, match="ids only"):
            bare.ask(QUESTION, again=0)
        assert any("gulls of Lima" in passage.text for passage in bare.ask(QUESTION, max_new_tokens=1).recall.shown)


@pytest.mark.parametrize("keep", ["blocks", "ids"])
@pytest.mark.parametrize("tokens", [0, 2, 6, 40])
def test_short_streams_can_be_asked(tiny, tokens, keep):
    with Session(tiny, Blocks(**SMALL, keep=keep), chunk=16) as short:
        short.feed(list(range(5, 5 + tokens)))
        reply = short.ask(QUESTION, max_new_tokens=2)
        assert reply.result.finish in ("length", "end") or reply.text is not None
        assert (reply.recall is None) == (tokens <= SMALL["sinks"])
        assert short.seen_tokens == tokens


def test_a_dense_session_answers_behind_its_text(tiny):
    with Session(tiny, Dense(), chunk=16) as dense:
        dense.feed(DULL)
        with dense.pose(QUESTION, raw=True) as posed:
            assert posed.recall is None
            assert read(posed.session).endswith(QUESTION)
