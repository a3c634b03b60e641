"""The documentation of Python source: what is found, where, and what is passed over."""

from pathlib import Path

from regard.data.documentation import documented

SOURCE = '''"""A module."""

class Thing:
    """A thing."""

    def method(self, a, /, b=1, *rest, c, **others):
        """Do it.

            More.
          Less.
        """
        def inner(x): "Within."

def bare(x): pass
'''


def test_names_parameters_and_places(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(SOURCE)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def (:")
    found = {one.name: one for one in documented(tmp_path)}
    assert list(found) == ["package", "package.Thing", "package.Thing.method", "package.Thing.method.inner"]
    method = found["package.Thing.method"]
    assert method.parameters == ("a", "b", "rest", "c", "others")
    assert method.text == "Do it.\n\n  More.\nLess."
    assert method.origin == "package/__init__.py:6"
    assert found["package"].origin == "package/__init__.py:1"


def test_the_standard_library_has_thousands() -> None:
    found = list(documented())
    assert len(found) > 5000
    assert found == list(documented())
    assert len({one.origin for one in found}) == len(found)
