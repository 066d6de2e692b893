"""One registry per extension point: one file, one decorator. Modules are found at the first look-up, not at import.

A registry names the packages that hold its entries; `pkgutil` imports their modules when somebody first asks. Third
parties register through the entry-point group `distill.plugins` (each entry point is a module to import).
"""

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from distill.core.errors import UsageError, nearest

T = TypeVar("T")
_plugins_loaded = False


def _load_plugins() -> None:
    global _plugins_loaded
    if not _plugins_loaded:
        _plugins_loaded = True
        for entry in importlib.metadata.entry_points(group="distill.plugins"):
            entry.load()


@dataclass(frozen=True)
class Form(Generic[T]):
    """Names that a person puts together instead of choosing one that is registered.

    Attributes:
        prefix: what all of them begin with.
        joint: what all whole ones contain behind it.
        shown: the forms in words, for messages.
        listed: the same, short, for lists.
        parse: a name that begins so -> its entry; raises UsageError that says what is wrong with it.
    """

    prefix: str
    joint: str
    shown: tuple[str, ...]
    listed: tuple[str, ...]
    parse: Callable[[str], T]


class Registry(Generic[T]):
    """A mapping from public name to entry, filled by `@registry.register("name")`.

    Args:
        noun: what an entry is, for messages ("teacher").
        packages: dotted packages whose modules register entries when imported.
    """

    def __init__(self, noun: str, packages: tuple[str, ...]) -> None:
        self.noun = noun
        self._packages = packages
        self._entries: dict[str, T] = {}
        self._forms: list[Form[T]] = []
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator; also usable as a call, `register("x")(entry)`. Raises ValueError when the name is taken."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.noun} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def register_form(self, form: Form[T]) -> None:
        """Let names of this form be looked up too; they are not listed among the registered ones."""
        self._forms.append(form)

    @property
    def forms(self) -> list[str]:
        """The forms of names that can be put together, short."""
        self._load()
        return [listed for form in self._forms for listed in form.listed]

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for package_name in self._packages:
            package = importlib.import_module(package_name)
            for module in pkgutil.iter_modules(package.__path__, package_name + "."):
                importlib.import_module(module.name)
        _load_plugins()

    def get(self, name: str) -> T:
        """The entry called `name`, or the one that it puts together. Raises UsageError with the nearest known name."""
        self._load()
        if name in self._entries:
            return self._entries[name]
        for form in self._forms:
            if name.startswith(form.prefix):
                return form.parse(name)
        shown = " or ".join(words for form in self._forms for words in form.shown)
        other = f" Or put one together: {shown}." if shown else ""
        raise UsageError(f"Unknown {self.noun} {name!r}. {nearest(name, self._entries)}{other}")

    def __contains__(self, name: object) -> bool:
        """Whether `name` is registered or has a form that can be put together (`get` may still find a part of it wrong)."""
        self._load()
        if name in self._entries:
            return True
        return isinstance(name, str) and any(name.startswith(f.prefix) and f.joint in name for f in self._forms)

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def items(self) -> list[tuple[str, T]]:
        """All (name, entry) pairs, sorted by name."""
        return [(name, self._entries[name]) for name in self]
