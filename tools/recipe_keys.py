"""What the recipe's classes say of its keys, as the Markdown that docs/reference/recipe.md includes."""

from collections.abc import Iterator
from inspect import cleandoc
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vidfit.recipe import Recipe


def section(path: str, model: type[BaseModel], level: int) -> Iterator[str]:
    """The keys of a mapping, then the mappings in it."""
    yield f"{'#' * level} {path}\n\n{cleandoc(model.__doc__ or '')}\n"
    inner = {name: models(field.annotation) for name, field in model.model_fields.items()}
    plain = {name: field for name, field in model.model_fields.items() if not inner[name] and name != "type"}
    yield "".join(f"- {line(name, field)}\n" for name, field in plain.items())
    for name, kinds in inner.items():
        # What a member has needs no prefix: a recipe may give `training` for all of them.
        own = f"{path.strip('`')}.{name}".removeprefix("members.")
        for kind in kinds:
            types = [f"`{one}`" for one in choices(kind.model_fields["type"])] if len(kinds) > 1 else []
            yield from section(f"`{own}`" + (f" of type {' or '.join(types)}" if types else ""), kind, level + 1)


def line(name: str, field: FieldInfo) -> str:
    """A key, its default and its description."""
    default = "required" if field.is_required() else "none" if field.default in (None, []) else field.default
    shown = (
        str(default).lower() if isinstance(default, bool) else f"{default:,}" if isinstance(default, int) else default
    )
    others = f"; or {', '.join(f'`{one}`' for one in choices(field) if one != field.default)}" if choices(field) else ""
    return f"`{name}` ({shown}{others}): {field.description}."


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The words that a value may be; none if it may be something else."""
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def models(annotation: Any) -> list[type[BaseModel]]:
    """The mappings that a value may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = get_args(annotation) if get_origin(annotation) is not Literal else ()
    return [model for one in (inner[:1] if get_origin(annotation) is Annotated else inner) for model in models(one)]


if __name__ == "__main__":
    for name, field in Recipe.model_fields.items():
        for kind in models(field.annotation):
            print("\n".join(section(f"`{name}`", kind, 2)))
