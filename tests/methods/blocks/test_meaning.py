"""The index of meanings: votes against float64, forks, and files that were cut short, damaged or forgotten in."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch

from everlong.errors import DamagedError, SaveError
from everlong.methods.blocks.recall.meaning import SLAB_PIECES, MeaningIndex
from everlong.methods.blocks.recall.piece_file import HEADER_BYTES, PieceFile, described, row_type

DIM = 20
WHO = bytes(range(32))
WIDTH = row_type(DIM).itemsize


def unit(count, seed=0, dim=DIM):
    drawn = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


def filled(index, count, seed=0):
    """Pieces of 10 tokens with keys 1, 2, ..., a few at a time."""
    vectors, done = unit(count, seed), 0
    while done < count:
        part = range(done, min(count, done + 7))
        index.add(vectors[done : part.stop], [10 * (n + 1) for n in part], [n + 1 for n in part])
        done = part.stop
    return vectors


def opened(path, **fields):
    return MeaningIndex(DIM, PieceFile(path, DIM, WHO, **fields))


@pytest.mark.parametrize("count", [0, 1, 63, SLAB_PIECES, SLAB_PIECES + 1, 700])
def test_votes_are_cosines(count):
    index = MeaningIndex(DIM)
    vectors, query = filled(index, count), unit(1, 9)[0]
    votes = index.votes(query)
    assert votes.dtype == np.float32
    np.testing.assert_allclose(votes, (vectors.double() @ query.double()).numpy(), atol=0.01)
    assert index.pieces == len(index.ends) == count
    assert index.tokens == 10 * count
    assert index.nbytes == -(-count // SLAB_PIECES) * SLAB_PIECES * WIDTH
    assert index.disk_bytes == 0


def test_a_piece_takes_its_numbers_and_18_bytes():
    assert row_type(384).itemsize == 402


def test_a_row_of_zeros_votes_for_nothing():
    index = MeaningIndex(DIM)
    index.add(torch.zeros(2, DIM), [5, 9], [1, 2])
    assert index.votes(unit(1)[0]).tolist() == [0, 0]


def test_pieces_that_a_span_touches():
    index = MeaningIndex(DIM)
    index.add(unit(4), [3, 10, 11, 30], [1, 2, 3, 4])
    spans = [(0, 3), (0, 4), (3, 10), (9, 12), (10, 11), (29, 40), (30, 40), (5, 5)]
    expected = [[0], [0, 1], [1], [1, 2, 3], [2], [3], [], []]
    assert [list(index.touching(*span)) for span in spans] == expected


def test_forgotten_pieces_leave_no_byte_and_can_be_set_anew(tmp_path):
    path = tmp_path / "meaning"
    index = opened(path)
    vectors = filled(index, 5)
    secret = row_at(path, 2)["vector"].tobytes()
    assert secret in path.read_bytes()
    index.forget(2, 4)
    assert secret not in path.read_bytes()
    again = opened(path)
    for one in (index, again):
        assert one.keys.tolist() == [1, 2, 0, 0, 5]
        assert one.ends.tolist() == [10, 20, 30, 40, 50]
        assert one.votes(vectors[2])[2:4].tolist() == [0, 0]
    again.put(3, vectors[3], 77)
    assert opened(path).keys.tolist() == [1, 2, 0, 77, 5]
    assert opened(path).votes(vectors[3]).argmax() == 3


def row_at(path, n):
    data = path.read_bytes()[HEADER_BYTES + n * WIDTH :][:WIDTH]
    return np.frombuffer(data, row_type(DIM))[0]


def test_forks_share_until_one_writes(tmp_path):
    index = opened(tmp_path / "meaning")
    vectors = filled(index, SLAB_PIECES + 3)
    fork = index.fork()
    assert fork.disk_bytes == 0
    before = index.votes(vectors[0]).tolist()
    fork.forget(0, 1)
    fork.add(unit(1, 5), [9999], [8])
    index.add(unit(2, 6), [9000, 9001], [6, 7])
    index.forget(SLAB_PIECES, SLAB_PIECES + 1)
    assert fork.votes(vectors[0])[0] == 0
    assert index.votes(vectors[0])[:SLAB_PIECES].tolist() == before[:SLAB_PIECES]
    assert fork.keys[-4:].tolist() == [SLAB_PIECES + 1, SLAB_PIECES + 2, SLAB_PIECES + 3, 8]
    assert index.keys[-5:].tolist() == [0, SLAB_PIECES + 2, SLAB_PIECES + 3, 6, 7]
    assert opened(tmp_path / "meaning").keys.tolist() == index.keys.tolist()


@pytest.mark.parametrize("lost", [1, WIDTH - 1, WIDTH, 3 * WIDTH + 5])
def test_a_file_that_was_cut_short_counts_as_far_as_it_is_whole(tmp_path, lost):
    path = tmp_path / "meaning"
    vectors = filled(opened(path), 300)
    os.truncate(path, path.stat().st_size - lost)
    index = opened(path)
    left = 300 - -(-lost // WIDTH)
    assert index.pieces == left
    assert path.stat().st_size == HEADER_BYTES + left * WIDTH
    np.testing.assert_allclose(index.votes(vectors[7]), (vectors @ vectors[7])[:left].numpy(), atol=0.01)
    index.add(unit(1, 3), [10**12], [5])
    assert opened(path).ends[-1] == 10**12


@pytest.mark.parametrize("at", [0, 17, DIM, DIM + 3, WIDTH - 5, WIDTH - 1])
def test_a_changed_byte_is_found_and_what_is_behind_it_goes(tmp_path, at):
    path = tmp_path / "meaning"
    filled(opened(path), 40)
    behind = row_at(path, 30)["vector"].tobytes()
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + 11 * WIDTH + at] ^= 4
    path.write_bytes(data)
    assert opened(path, writable=False).pieces == 11
    assert path.read_bytes() == data
    assert opened(path).keys.tolist() == list(range(1, 12))
    assert behind not in path.read_bytes()


def test_a_row_in_another_place_and_a_hole_are_found(tmp_path):
    path = tmp_path / "meaning"
    filled(opened(path), 6)
    data = path.read_bytes()
    rows = [data[HEADER_BYTES + n * WIDTH :][:WIDTH] for n in range(6)]
    path.write_bytes(data[:HEADER_BYTES] + b"".join([rows[0], rows[1], rows[3], rows[2]]))
    assert opened(path, writable=False).pieces == 2
    path.write_bytes(data[:HEADER_BYTES] + rows[0] + bytes(WIDTH) + rows[2])
    assert opened(path, writable=False).pieces == 1


def test_a_file_of_another_encoder_or_without_a_header_is_refused(tmp_path):
    path = tmp_path / "meaning"
    filled(opened(path), 3)
    assert described(path) == (DIM, WHO)
    with pytest.raises(DamagedError, match=r"meaning: not the vectors of this encoder"):
        PieceFile(path, DIM, bytes(32))
    with pytest.raises(DamagedError, match="not the vectors"):
        PieceFile(path, DIM + 1, WHO)
    os.truncate(path, 30)
    for read in (described, lambda place: PieceFile(place, DIM, WHO)):
        with pytest.raises(DamagedError, match="delete the file: it is made again"):
            read(path)
    with pytest.raises(SaveError, match="nowhere/meaning"):
        PieceFile(tmp_path / "nowhere" / "meaning", DIM, WHO)


def test_truncating_overwrites_what_goes(tmp_path):
    path = tmp_path / "meaning"
    index = opened(path)
    vectors = filled(index, SLAB_PIECES + 9)
    index.truncate(4)
    index.truncate(8)
    assert index.pieces == len(index.votes(vectors[0])) == 4
    assert index.disk_bytes == HEADER_BYTES + 4 * WIDTH == path.stat().st_size
    index.add(unit(1, 4), [41], [9])
    assert opened(path).ends.tolist() == index.ends.tolist() == [10, 20, 30, 40, 41]


def test_a_hundred_thousand_tokens_are_asked_in_a_blink():
    index, pieces = MeaningIndex(384), 4000
    index.add(unit(pieces, dim=384), range(25, 25 * pieces + 1, 25), range(1, pieces + 1))
    query, spent = unit(1, 9, 384)[0], []
    for _ in range(5):
        start = time.thread_time()
        index.votes(query)
        spent.append(time.thread_time() - start)
    # 2 ms where it was written; the bound leaves room for slower machines.
    assert min(spent) < 0.02
