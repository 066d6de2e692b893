"""Terms in the hub's words."""

import pytest

from distill.reporting.card import hub_licence


@pytest.mark.parametrize(
    ("terms", "name"),
    [
        (
            "data rendered: Apache-2.0 (made by this package); teacher rendered: Apache-2.0; no teacher forbids commercial use",
            "apache-2.0",
        ),
        ("data photos: unknown; teacher rendered: Apache-2.0; no teacher forbids commercial use", "other"),
        ("data rendered: Apache-2.0; teacher dfn: Apple; no commercial use because of teacher dfn", "other"),
        ("data rendered: Apache-2.0; teacher x: MIT; no teacher forbids commercial use", "other"),
        ("unknown", "other"),
        ("", "other"),
    ],
)
def test_only_what_is_apache_throughout_is_called_so(terms, name):
    assert hub_licence(terms) == name
