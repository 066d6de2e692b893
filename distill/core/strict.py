"""Strict settings: frozen pydantic models, unknown keys refused with the near key named, TOML in, `--set key=value`.

TOML because `1e-3` is a number there and because it needs no schema of its own.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from distill.core.errors import UsageError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same parser under its older name
    import tomli as tomllib


class Strict(BaseModel):
    """Base of every settings class: frozen, unknown keys are errors, defaults are validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


M = TypeVar("M", bound=Strict)
Settings = Mapping[str, Any] | Sequence[str]  # {"a.b": value}, or "a.b=value" strings as on the command line


def parse(model: type[M], values: dict[str, Any], where: str) -> M:
    """`values` as a `model`. Raises UsageError with one sentence per wrong key; `where` names the file or flag."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{where}: " + " ".join(_sentence(model, item) for item in _by_key(error.errors()))) from None


# What pydantic puts behind a key of several types: the type that it tried.
_TRIED = re.compile(r"(constrained-)?(int|float|str|bool|dict)|(literal|tuple|list|dict|function-\w+)\[.*|none", re.S)


def _by_key(items: Iterable[Any]) -> list[dict[str, Any]]:
    """One error per key: of a key that takes this or that, what it would have taken stands in one."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for item in items:
        location = list(item["loc"])
        while len(location) > 1 and isinstance(location[-1], str) and _TRIED.fullmatch(location[-1]):
            location.pop()
        first = found.setdefault(tuple(location), {**item, "loc": location})
        if item["msg"] not in first["msg"]:
            said = item["msg"][:1].lower() + item["msg"][1:]
            first["msg"] = f"{first['msg']}, or: {said}"
    return list(found.values())


def _sentence(model: type[BaseModel], item: Any) -> str:
    location = list(item["loc"])
    key = ".".join(str(part) for part in location)
    if item["type"] == "extra_forbidden":
        return f"unknown key {key!r}. {nearest(str(location[-1]), _keys_at(model, location[:-1]))}"
    if item["type"] == "missing":
        return f"key {key!r} is missing."
    return f"key {key!r}: {item['msg'][:1].lower() + item['msg'][1:]} (got {item['input']!r})."


def _keys_at(model: type[BaseModel], location: list[Any]) -> list[str]:
    current: Any = model
    for part in location:
        if isinstance(part, str) and part in getattr(current, "model_fields", {}):
            annotation = current.model_fields[part].annotation
            candidates = [annotation, *getattr(annotation, "__args__", ())]
            current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return list(getattr(current, "model_fields", {}))


def load_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file. Raises UsageError when it is missing, unreadable or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"There is no recipe {str(path)!r}. Give the path of a .toml file; see recipes/.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {str(path)!r} cannot be read ({error}). It must be a UTF-8 TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"The recipe {str(path)!r} is not valid TOML: {error}. Mend that line and call again."
        ) from None


def apply_settings(values: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """A copy of `values` with the settings applied. The value in an `a.b=value` string is TOML, or a bare word."""
    result: dict[str, Any] = _copy(dict(values))
    if isinstance(settings, str):
        raise UsageError(f"Settings are a list of key=value strings or a mapping, not the one string {settings!r}.")
    pairs = settings.items() if isinstance(settings, Mapping) else [_split(item) for item in settings]
    for key, value in pairs:
        *parents, last = key.split(".")
        table = result
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise UsageError(f"The setting {key!r}: {parent!r} is a value, not a table of keys.")
        table[last] = value
    return result


def _split(item: str) -> tuple[str, Any]:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {item!r}: write key=value, for example --set train.lr=1e-3.")
    return key.strip(), _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        value: Any = tomllib.loads(f"v = {text}")["v"]
        return value
    except tomllib.TOMLDecodeError:
        return text


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return value
