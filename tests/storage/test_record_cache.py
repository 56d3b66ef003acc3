"""Records that stay in memory: the least recently used leaves first, and the limit holds at every moment."""

from __future__ import annotations

import random

import pytest

from everlong.errors import ConfigError
from everlong.methods import make_method
from everlong.storage.record_cache import SLAB_RECORDS, RecordCache, RecordPool

SLAB = SLAB_RECORDS * 64


def test_the_least_recently_used_leaves_first():
    cache = RecordCache(SLAB)
    cache.record_bytes = 64
    for n in range(SLAB_RECORDS):
        cache.room((0, n)).fill_(n)
    assert cache.get((0, 0))[0] == 0
    cache.room((0, 99)).fill_(99)
    assert (0, 0) in cache
    assert cache.get((0, 1)) is None
    cache.discard((0, 99))
    assert cache.get((0, 99)) is None
    cache.without({2, 3})
    assert cache.get((0, 2)) is None
    assert [cache.get((0, n))[5].item() for n in range(4, SLAB_RECORDS)] == list(range(4, SLAB_RECORDS))


def test_without_room_nothing_stays():
    cache = RecordCache(SLAB - 1)
    cache.record_bytes = 64
    assert cache.room((0, 0)) is None
    assert cache.nbytes == 0


def test_the_limit_holds_while_it_moves():
    draw, cache = random.Random(1), RecordCache(3 * SLAB)
    cache.record_bytes = 64
    for _ in range(900):
        key = draw.randrange(2), draw.randrange(60)
        record = cache.get(key)
        if record is None and (room := cache.room(key)) is not None:
            room.fill_(key[0] * 60 + key[1])
        elif record is not None:
            assert set(record.tolist()) == {key[0] * 60 + key[1]}
        if draw.random() < 0.1:
            cache.shrink(draw.randrange(4 * SLAB))
        assert cache.nbytes <= cache.limit


def filled(cache, *keys):
    for key in keys:
        if cache.get(key) is None:
            cache.room(key).fill_(key[1])


def test_no_more_of_a_layer_stay_than_said():
    cache = RecordCache(SLAB)
    cache.record_bytes, cache.per_layer = 64, 3
    filled(cache, (0, 0), (0, 1), (1, 7), (0, 2), (0, 0), (0, 3))
    assert [n for n in range(4) if (0, n) in cache] == [0, 2, 3]
    assert (1, 7) in cache


def test_the_lowest_score_leaves_first():
    """By hand, decay a half: block 0 has 1/4 + 1 after two choices, block 1 has 1/2 + 1, block 2 has 1."""
    cache = RecordCache(SLAB)
    cache.record_bytes, cache.per_layer, cache.evict, cache.decay = 64, 3, "score", 0.5
    filled(cache, (0, 0))
    cache.chosen(0)
    filled(cache, (0, 1))
    cache.chosen(0)
    filled(cache, (0, 0), (0, 1), (0, 2), (0, 3))
    assert [n for n in range(4) if (0, n) in cache] == [0, 1, 3]
    for _ in range(3):
        cache.chosen(0)
    filled(cache, (0, 4))
    assert [n for n in range(5) if (0, n) in cache] == [0, 1, 4]  # block 3 has 1/8, less than 5/32 and 3/16


def test_a_long_use_of_few_records_takes_no_memory():
    cache = RecordCache(SLAB)
    cache.record_bytes, cache.evict = 64, "score"
    for _ in range(3000):
        cache.chosen(0)
        filled(cache, (0, 0), (0, 1))
    assert sum(map(len, cache._queues.values())) < 100
    assert {n: int(cache.get((0, n))[0]) for n in (0, 1)} == {0: 0, 1: 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resident": 0}, "resident=0: must be at least 1"),
        ({"evict": "score", "score_decay": 0.0}, "score_decay=0.0: must be above 0 and at most 1"),
        ({"score_decay": 0.5}, "score_decay=0.5: has no effect with evict=lru; add evict=score"),
        ({"evict": "oldest"}, "evict=oldest: expected one of lru, score"),
    ],
)
def test_rules_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        make_method("blocks", fields)


def test_caches_of_one_pool_take_from_those_used_longest_ago():
    pool = RecordPool(3 * SLAB)
    caches = [RecordCache(2 * SLAB) for _ in range(3)]
    for n, cache in enumerate(caches):
        cache.record_bytes = 64
        cache.pool = pool
        filled(cache, *((n, block) for block in range(2 * SLAB_RECORDS)))
        assert pool.nbytes <= pool.limit
    # The first was used longest ago and has nothing left, the last has all that it may have.
    assert [cache.nbytes // SLAB for cache in caches] == [0, 1, 2]
    for n, cache in enumerate(caches):
        for block in range(2 * SLAB_RECORDS):
            record = cache.get((n, block))
            assert record is None or set(record.tolist()) == {block}
    caches[1].chosen(1)
    filled(caches[0], (0, 0))
    assert [cache.nbytes // SLAB for cache in caches] == [1, 1, 1]
    assert caches[1].fresh().pool is pool
    del caches[2], cache
    assert pool.nbytes == 2 * SLAB


def test_a_cache_alone_in_a_full_pool_lets_its_own_records_leave():
    pool = RecordPool(SLAB)
    cache = RecordCache(4 * SLAB)
    cache.record_bytes = 64
    cache.pool = pool
    filled(cache, *((0, block) for block in range(3 * SLAB_RECORDS)))
    assert cache.nbytes == SLAB
    assert cache.get((0, 3 * SLAB_RECORDS - 1)) is not None
    pool.limit = SLAB - 1
    other = RecordCache(SLAB)
    other.record_bytes = 64
    other.pool = pool
    assert other.room((0, 0)) is None
