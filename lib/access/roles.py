"""What a user may do: three roles, each of which may do what those below it may."""

from enum import Enum
from functools import total_ordering

from lib.errors import BadInputError


@total_ordering
class Role(Enum):
    """A user's role. Compared by what it may do: `user.role >= Role.REVIEWER`."""

    ANNOTATOR = "annotator"
    REVIEWER = "reviewer"
    ADMIN = "admin"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Role):
            return NotImplemented
        order = list(Role)
        return order.index(self) < order.index(other)

    def __str__(self) -> str:
        return self.value


def role_named(text: str) -> Role:
    """The role of this name.

    Raises:
        BadInputError: there is none.
    """
    try:
        return Role(text)
    except ValueError:
        msg = f"there is no role {text!r}; choose one of {', '.join(map(str, Role))}"
        raise BadInputError(msg) from None
