"""The check of every signature of everlong while the tests run: jaxtyping's, at a third of its cost.

`--jaxtyping-packages` puts `jaxtyping.jaxtyped` on each function. For each call that binds the arguments to the
signature, opens a memo of axis sizes and checks the arguments twice. Here a memo is opened only where a hint names an
array, the arguments are checked once and the result by itself against the same memo, and the checks of a function are
made when it is first called. Not supported: sizes that are computed from arguments ("{n}+1").
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple, Self, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _decorator
from jaxtyping._storage import pop_shape_memo, push_shape_memo

BEARTYPE = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
"""The type checker, with jaxtyping's error, which is a TypeError."""
_whole = jaxtyping.jaxtyped
_made: dict[types.CodeType, _Checks] = {}


def jaxtyped(thing: Any = None, *, typechecker: Any) -> Any:
    """`thing` with its signature checked; classes, properties and the like jaxtyping takes apart."""
    if thing is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if isinstance(thing, types.FunctionType):
        return _checked(thing)
    return _whole(thing, typechecker=typechecker)


def install() -> None:
    """Put the check in the place of jaxtyping's; to be called before everlong is imported."""
    jaxtyping.jaxtyped = _decorator.jaxtyped = jaxtyped


class _Checks(NamedTuple):
    """What looks at the arguments of a function and, given as `name`, at its result; whether an array is named."""

    arguments: Callable
    result: Callable
    name: str
    shaped: bool


def _checked(function: types.FunctionType) -> Callable:
    """`function` with checks that are made when it is first called; a function inside another shares them."""
    code, checks = function.__code__, None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checks
        if checks is None:
            if code not in _made:
                _made[code] = _make(function)
            checks = _made[code]
        if not checks.shaped:
            checks.arguments(*args, **kwargs)
            return checks.result(**{checks.name: function(*args, **kwargs)})
        push_shape_memo({})
        try:
            checks.arguments(*args, **kwargs)
            return checks.result(**{checks.name: function(*args, **kwargs)})
        finally:
            pop_shape_memo()

    return call


def _make(function: types.FunctionType) -> _Checks:
    signature = _resolved(function)
    arguments = _stub(function, signature.replace(return_annotation=Any), output=False)
    result, name = _stub(function, signature.replace(parameters=()), output=True)
    return _Checks(BEARTYPE(arguments), BEARTYPE(result), name, any(map(_names_an_array, _hints(signature))))


def _resolved(function: Callable) -> inspect.Signature:
    """The signature with hints in place of their words; a hint that only a type checker can resolve is Any."""
    found = inspect.signature(function)

    def resolved(hint: Any) -> Any:
        hint = _decorator._destring_annotation(hint, ns=function.__globals__)
        return Any if hint is Self else hint

    parameters = [p.replace(annotation=resolved(p.annotation)) for p in found.parameters.values()]
    return found.replace(parameters=parameters, return_annotation=resolved(found.return_annotation))


def _stub(function: Callable, signature: inspect.Signature, output: bool) -> Any:
    """A function of this signature, named like `function`, that does nothing.

    With `output` it gives back one argument more, and stands here with the name of that.
    """
    names = function.__name__, function.__qualname__, function.__module__
    return _decorator._make_fn_with_signature(*names, signature, output=output)


def _hints(signature: inspect.Signature) -> list[Any]:
    return [*(p.annotation for p in signature.parameters.values()), signature.return_annotation]


def _names_an_array(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_names_an_array, get_args(hint)))
