"""Passes keyword arguments on to ``predict``, after a check that it takes them."""

from __future__ import annotations

import difflib
import functools
import inspect
from typing import Any, Callable, Dict, List, Tuple


def with_keywords(
    predict: Callable[..., Any], keywords: Dict[str, Any], spec: str, signature_of: Any = None, strict: bool = False
) -> Callable[..., Any]:
    """Return ``predict`` with these keyword arguments.

    Args:
        predict: what is called with the list of paths.
        keywords: the user's option ``predict_options``.
        spec: the pipeline's name in errors.
        signature_of: the function that takes the keywords in the end, if ``predict`` only passes them on.
        strict: whether a name must be among the named arguments even where the function takes any: PaddleX's
            pipelines ignore unknown ones.

    Raises:
        TypeError: if ``predict`` does not take one of them.
    """
    if not keywords:
        return predict
    named, takes_any = _arguments_of(predict if signature_of is None else signature_of)
    for name in keywords:
        if name not in named and (not takes_any or (strict and named)):
            matches = difflib.get_close_matches(name, named, n=1)
            hint = "did you mean %s? " % matches[0] if matches else ""
            raise TypeError(
                "predict of %s has no option %r; %sit has: %s" % (spec, name, hint, ", ".join(named) or "none")
            )
    return functools.partial(predict, **keywords)


def _arguments_of(function: Any) -> Tuple[List[str], bool]:
    """Return the names of the arguments but the first, and whether it takes any other keyword."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C
        return [], True
    if parameters and parameters[0].kind in (parameters[0].POSITIONAL_ONLY, parameters[0].POSITIONAL_OR_KEYWORD):
        parameters = parameters[1:]
    named = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return named, any(each.kind is each.VAR_KEYWORD for each in parameters)
