"""What every set of options can do: it knows which of them its maker gave."""

from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["Options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A dataclass of options, whose subclasses are dataclasses of the same form.

    Attributes:
        given: Names of the options that code has given. The others have their defaults, until the environment says
            something else.
    """

    given: frozenset[str] = field(init=False, repr=False, compare=False)

    def __new__(cls, **given: Any) -> Self:
        options = object.__new__(cls)
        object.__setattr__(options, "given", frozenset(given))
        return options

    def but(self, **changes: Any) -> Self:
        """The same options but for ``changes``; unlike with `dataclasses.replace`, the others stay as open as they are.

        Raises:
            ConfigurationError: They cannot work together.
        """
        return type(self)(**{name: getattr(self, name) for name in self.given} | changes)
