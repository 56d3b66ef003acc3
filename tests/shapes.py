"""The check of every signature of everlong while the tests run: jaxtyping's, at a third of its cost.

`--jaxtyping-packages` puts `jaxtyping.jaxtyped` on each function. For each call that binds the arguments to the
signature, opens a memo of axis sizes and checks the arguments twice. Here a memo is opened only where a hint names an
array, the arguments are checked once and the result by itself against the same memo. Not supported: sizes that are
computed from arguments ("{n}+1").
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from jaxtyping import _decorator
from jaxtyping._storage import pop_shape_memo, push_shape_memo

Checker = Callable[[Callable], Callable]
_whole = jaxtyping.jaxtyped


def jaxtyped(thing: Any = None, *, typechecker: Checker) -> Any:
    """`thing` with its signature checked; classes, properties and the like jaxtyping takes apart."""
    if thing is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if isinstance(thing, types.FunctionType):
        return _checked(thing, typechecker)
    return _whole(thing, typechecker=typechecker)


def install() -> None:
    """Put the check in the place of jaxtyping's; to be called before everlong is imported."""
    jaxtyping.jaxtyped = _decorator.jaxtyped = jaxtyped


def _checked(function: Callable, typechecker: Checker) -> Callable:
    signature = _resolved(function)
    check_arguments = typechecker(_stub(function, signature.replace(return_annotation=Any), output=False))
    returned, name = _stub(function, signature.replace(parameters=()), output=True)
    check_result = typechecker(returned)
    wrapped = _in_a_memo if any(map(_names_an_array, _hints(signature))) else _alone
    return functools.wraps(function)(wrapped(function, check_arguments, check_result, name))


def _alone(function: Callable, check_arguments: Callable, check_result: Callable, name: str) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        check_arguments(*args, **kwargs)
        result = function(*args, **kwargs)
        return check_result(**{name: result})

    return call


def _in_a_memo(function: Callable, check_arguments: Callable, check_result: Callable, name: str) -> Callable:
    checked = _alone(function, check_arguments, check_result, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        push_shape_memo({})
        try:
            return checked(*args, **kwargs)
        finally:
            pop_shape_memo()

    return call


def _resolved(function: Callable) -> inspect.Signature:
    """The signature with hints in place of their words; a hint that only a type checker can resolve is Any."""
    found = inspect.signature(function)
    resolve = functools.partial(_decorator._destring_annotation, ns=function.__globals__)
    parameters = [p.replace(annotation=resolve(p.annotation)) for p in found.parameters.values()]
    return found.replace(parameters=parameters, return_annotation=resolve(found.return_annotation))


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
