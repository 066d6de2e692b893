"""A set's identity follows every byte of its shards, and only records of that very set are fresh."""

from reinforced_data.store.identity import SET_KEY, fresh, set_identity
from reinforced_data.store.manifest import read_manifest
from tests.reinforced_data.stubs import ListSource, make_set, samples, two_teachers


def test_a_set_made_twice_is_one_set_and_one_of_other_samples_is_another(tmp_path):
    for name, first in (("a", 0), ("b", 0), ("c", 1)):
        make_set(ListSource(samples(4, first=first)), two_teachers(), tmp_path / name, batch_size=4)
    a, b, c = (set_identity(read_manifest(tmp_path / name)) for name in "abc")
    assert a == b != c


def test_only_a_record_of_the_same_set_is_fresh():
    assert fresh({SET_KEY: "one", "figure": 1}, "one")
    assert not fresh({SET_KEY: "one"}, "other")
    assert not fresh({}, "one")
