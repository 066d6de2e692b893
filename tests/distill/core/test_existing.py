import pytest

from distill.core.errors import UsageError
from distill.core.existing import Existing


def test_no_flag_refuses_and_one_is_taken_at_its_word():
    assert Existing.of() is Existing.REFUSE
    assert Existing.of(resume=True) is Existing.RESUME
    assert Existing.of(overwrite=True) is Existing.OVERWRITE
    assert Existing.of(extend=True) is Existing.EXTEND


@pytest.mark.parametrize("flags", [("resume", "overwrite"), ("overwrite", "extend"), ("resume", "extend")])
def test_two_answers_are_none(flags):
    with pytest.raises(UsageError) as error:
        Existing.of(**dict.fromkeys(flags, True))
    assert all(f"--{flag}" in str(error.value) for flag in flags)
