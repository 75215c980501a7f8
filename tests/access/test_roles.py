import pytest

from lib.access.roles import Role, role_named
from lib.errors import BadInputError


def test_each_role_may_do_what_those_below_may():
    assert Role.ANNOTATOR < Role.REVIEWER < Role.ADMIN
    assert sorted([Role.ADMIN, Role.ANNOTATOR, Role.REVIEWER]) == list(Role)
    assert Role.REVIEWER >= Role.REVIEWER > Role.ANNOTATOR
    assert max(Role) is Role.ADMIN


def test_a_role_is_no_text():
    """By the alphabet an admin would come before an annotator."""
    with pytest.raises(TypeError):
        assert Role.ADMIN < "annotator"


def test_roles_by_name():
    assert [role_named(str(role)) for role in Role] == list(Role)
    with pytest.raises(BadInputError) as caught:
        role_named("Admin")
    assert str(caught.value) == "there is no role 'Admin'; choose one of annotator, reviewer, admin"
