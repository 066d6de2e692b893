"""Registries: found lazily, duplicates raise, unknown names answer with the nearest; plug-ins from elsewhere join in."""

import sys

import pytest

from distill.core.errors import UsageError
from distill.core.registry import Registry


def test_register_get_and_near_names():
    registry: Registry[int] = Registry("thing", ())
    registry.register("alpha")(1)
    registry.register("beta")(2)
    assert (registry.get("alpha"), list(registry), len(registry), "beta" in registry) == (1, ["alpha", "beta"], 2, True)
    with pytest.raises(UsageError, match=r"Unknown thing 'alpa'. Did you mean 'alpha'"):
        registry.get("alpa")
    with pytest.raises(ValueError, match="twice"):
        registry.register("alpha")(3)


def test_modules_of_a_package_are_found_at_the_first_look_up(tmp_path, monkeypatch):
    package = tmp_path / "zoo_for_test"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from distill.core.registry import Registry\nR = Registry('animal', ('zoo_for_test',))\n"
    )
    (package / "cat.py").write_text("from zoo_for_test import R\nR.register('cat')('meow')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import zoo_for_test  # type: ignore[import-not-found]

    assert "zoo_for_test.cat" not in sys.modules
    assert zoo_for_test.R.get("cat") == "meow"


@pytest.mark.process
def test_plug_ins_register_through_the_entry_point_group(tmp_path):
    import subprocess

    (tmp_path / "my_plugin.py").write_text(
        "from students.spec import STUDENTS, StudentSpec\n"
        "STUDENTS.register('mine')(StudentSpec('mine', {'embed_dim': 8, 'vision_cfg': {}, 'text_cfg': {}}))\n"
    )
    info = tmp_path / "my_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[distill.plugins]\nmine = my_plugin\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from students.spec import STUDENTS; print('mine' in STUDENTS)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True"


def test_every_registry_can_be_listed():
    from distill.verbs.listing import KINDS, list_names

    for kind in KINDS:
        rows = list_names(kind)
        assert rows, kind
        assert all(row["name"] for row in rows)
    with pytest.raises(UsageError, match="'teachers'"):
        list_names("teacher")
