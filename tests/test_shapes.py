"""The check of signatures finds what jaxtyping's own finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float, Int
from torch import Tensor

import everlong
from everlong.ops.rotary import turned
from tests import shapes
from tests.shapes import jaxtyped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nowhere import Unknown

check = jaxtyped(typechecker=beartype)
ONE, TWO = torch.ones(2, 3), torch.ones(3, 2)


@check
def joined(left: Float[Tensor, "N D"], right: Float[Tensor, "N D"], times: int = 1) -> Float[Tensor, "N two*D"]:
    return torch.cat([left, right], 1)[:, : left.shape[1] * 2 * times]


@check
def transposed(x: Float[Tensor, "N D"]) -> Float[Tensor, "D N"]:
    return x


@check
def halves(values: list[int], *, unknown: Unknown = None) -> tuple[int, str]:
    return values[0], unknown


@check
def counted(n: int) -> Iterator[int]:
    yield from range(n)


@check
class Plain:
    @property
    @check
    def wrong(self) -> int:
        return "no number"


@check
@dataclass
class Row:
    ids: Int[Tensor, " T"]
    names: tuple[str, ...] = ()


def wrong(function, *arguments, **named):
    with pytest.raises(jaxtyping.TypeCheckError, match="violates type hint"):
        function(*arguments, **named)


def test_axes_agree_between_arguments_and_with_the_result():
    assert transposed(torch.ones(2, 2)).shape == (2, 2)
    wrong(transposed, ONE)
    wrong(joined, ONE, TWO)
    wrong(joined, ONE, ONE.int())
    wrong(joined, ONE, ONE, times="1")


def test_plain_hints_are_checked_and_unknown_ones_let_through():
    assert halves([1], unknown="x") == (1, "x")
    wrong(halves, ["a"], unknown="x")
    wrong(halves, [1], unknown=2)
    wrong(lambda: Plain().wrong)
    wrong(counted, "3")
    assert list(counted(3)) == [0, 1, 2]
    with pytest.raises(TypeError, match=r"halves\(\) missing 1 required positional argument: 'values'"):
        halves()


def test_dataclasses_are_checked_when_they_are_made():
    assert Row(torch.arange(3)).names == ()
    wrong(Row, torch.ones(3))
    wrong(Row, torch.arange(3), names=(1,))


def test_axes_of_one_call_do_not_bind_those_of_the_next():
    assert transposed(torch.ones(2, 2)).shape == (2, 2)
    assert transposed(torch.ones(3, 3)).shape == (3, 3)


def test_a_function_inside_another_is_checked_each_time():
    def outer(value):
        @check
        def inner(x: int) -> str:
            return value

        return inner

    assert outer("a")(1) == "a"
    assert outer("b")(1) == "b"
    wrong(outer("a"), "1")
    wrong(outer(2), 1)


def test_it_stands_on_every_function_of_the_package():
    assert jaxtyping.jaxtyped is shapes.jaxtyped
    wrong(turned, "no tensor")
    wrong(everlong.Sinks, sinks="four")
