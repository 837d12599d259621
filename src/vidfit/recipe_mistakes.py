"""What is wrong with a recipe, in its own words: pydantic's errors as one line that names the key."""

import json
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from vidfit.sizes import count_of

# Keys of the last release, by the mapping they are in.
_RENAMED = {
    "training.decay": "lr_decay",
    "training.decay_examples": "lr_decay_examples",
    "training.clip_norm": "per_tensor_clip_norm",
    "averaging.half_life": "ema_decay, with the value 1 - 1/half_life",
    "distill.lambda": "weight",
    "family.form": "pooling",
}


def describe(error: ValidationError, document: dict[str, Any], recipe: type[BaseModel]) -> str:
    """The first problem, as one line that names the key the way the recipe spells it.

    Arguments:
        error: of pydantic.
        document: what was read.
        recipe: the model that it does not fit.
    """
    # A misspelt key is a missing one too: the unknown ones first.
    errors = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problems = [(_place(problem, document), problem) for problem in errors]
    first, _ = problems[0]
    # Where a value may have several forms, the form that it came furthest in tells best what is wrong with it.
    place, problem = max((it for it in problems if it[0][: len(first)] == first), key=lambda it: len(it[0]))
    others = {place for place, _ in problems if place[: len(first)] != first}
    where, more = ".".join(place), f" (and {count_of(len(others), 'more mistake')})" if others else ""
    if new_name := _RENAMED.get(".".join(place[-2:])):
        return f"{where} was renamed: write {new_name}{more}"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}; the keys here are {', '.join(_known_keys(recipe, problem['loc'][:-1]))}{more}"
    if problem["type"] == "missing":
        return f"missing key {where}{more}"
    message = _plain([it for at, it in problems if at == place and it["type"] in _WANTED] or [problem])
    return f"{where}: {message}{more}" if where else f"{message}{more}"


def _plain(problems: list[Any]) -> str:
    """What is wrong with a value, in the words of a recipe. Several problems are those of the forms it may have."""
    problem = problems[0]
    value, kind, context = problem["input"], problem["type"], problem.get("ctx", {})
    shown = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    if kind == "model_attributes_type":  # of a family or a head
        return f"give a mapping such as {{type: {value if isinstance(value, str) else '...'}}}, not {shown}"
    if kind == "union_tag_invalid":
        return f"there is no type {context['tag']!r}; the types are {context['expected_tags']}"
    if kind == "union_tag_not_found":
        return "missing key type"
    if kind in _WANTED:
        wanted = dict.fromkeys(_WANTED[it["type"]].format(**_limits(it)) for it in problems)
        return f"give {' or '.join(wanted)}, not {shown}"
    return problem["msg"].removeprefix("Value error, ")


def _limits(problem: Any) -> dict[str, Any]:
    """0.0 is written 0."""
    given = problem.get("ctx", {})
    return {key: f"{value:g}" if isinstance(value, float) else value for key, value in given.items()}


# What pydantic asked for, by the type of its complaint.
_WANTED = {
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "list_type": "a list",
    "string_type": "text",
    "is_instance_of": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number of at most {le}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} of them",
}


def _place(problem: Any, document: dict[str, Any]) -> tuple[str, ...]:
    """The keys down to a problem that the recipe itself has; pydantic's also name the form that a value was read as."""
    keys = problem["loc"]
    match keys:
        case ("members", name, "training", *inner):
            own = document["members"][name].get("training")
            if own is None or (inner and isinstance(own, dict) and inner[0] not in own):
                keys = keys[2:]
    missing = keys[-1:] if problem["type"] == "missing" else ()
    place, node = [], document
    for key in keys[: len(keys) - len(missing)]:
        if isinstance(key, int) if isinstance(node, list) else isinstance(node, dict) and key in node:
            node = node[key]
            place.append(str(key))
    return (*place, *missing)


def _known_keys(kind: Any, place: tuple[int | str, ...]) -> list[str]:
    """Keys of a mapping in a model; `place` is pydantic's, which for a union has the `type` of the variant."""
    for key in place:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif variants := get_args(kind):
            kind = next(it for it in variants if key in get_args(it.model_fields["type"].annotation))
        else:
            kind = kind.model_fields[key].annotation
        if NoneType in get_args(kind):
            kind = get_args(kind)[0]
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
    return [field.alias or name for name, field in kind.model_fields.items()]
