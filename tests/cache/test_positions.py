"""Places of tokens in a stream with images, against the plain definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlong.cache.positions import ImagePlanes, TokenPlaces
from everlong.errors import CapabilityError


def text(start, count):
    return np.broadcast_to(start + np.arange(count), (3, count))


def image(start, frames, height, width):
    t, h, w = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    return start + np.stack([t.ravel(), h.ravel(), w.ravel()])


def stream_of(parts):
    """The planes of a stream piece by piece: a number is so many tokens of text, a triple an image."""
    start = 0
    for part in parts:
        planes = text(start, part) if isinstance(part, int) else image(start, *part)
        start = int(planes.max()) + 1
        yield planes


def places_of(pieces):
    """Each token's least position on any axis, of itself and of all tokens behind it."""
    whole = np.concatenate(pieces, 1)
    return [int(whole[:, i:].min()) for i in range(whole.shape[1])] + [int(whole.max()) + 1]


PARTS = st.lists(st.integers(1, 5) | st.tuples(*[st.integers(1, 3)] * 3), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(PARTS)
def test_places_are_the_least_positions_to_come(parts):
    pieces = list(stream_of(parts))
    found, seen = TokenPlaces(), 0
    for planes in pieces:
        found = found.then(seen, ImagePlanes(planes))
        seen += planes.shape[1]
    want = places_of(pieces)
    assert found.between(0, seen + 1).tolist() == want
    assert found.at(seen + 7) == want[-1] + 7
    assert TokenPlaces.restored(found.state()) == found
    at_once = TokenPlaces().then(0, ImagePlanes(np.concatenate(pieces, 1)))
    assert at_once.between(0, seen + 1).tolist() == want


def test_text_alone_stays_text():
    assert TokenPlaces().then(5, ImagePlanes(text(5, 9))).is_text
    assert TokenPlaces().at(11) == 11
    assert TokenPlaces.restored(None).is_text


def test_text_behind_a_long_video_goes_on_where_the_model_says():
    """The times of a video may pass the positions of the text behind it."""
    planes = np.concatenate([image(0, 3, 1, 1) * [[4], [1], [1]], text(1, 2)], 1)
    found = TokenPlaces().then(0, ImagePlanes(planes))
    assert found.between(0, 7).tolist() == [0, 0, 0, 1, 2, 3, 4]


def test_an_image_is_taken_back_whole():
    pieces = list(stream_of([3, (1, 2, 2), 4]))
    found = TokenPlaces().then(0, ImagePlanes(np.concatenate(pieces, 1)))
    assert found.cropped(9).between(0, 12).tolist() == [0, 1, 2, 3, 3, 3, 3, 5, 6, 7, 8, 9]
    assert found.cropped(7).at(7) == 5
    assert found.cropped(3).is_text
    assert found.cropped(0).is_text
    for middle in (4, 5, 6):
        with pytest.raises(CapabilityError, match="middle of an image"):
            found.cropped(middle)
