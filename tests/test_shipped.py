"""Things found by name."""

import pytest

from headstart import shipped
from headstart.errors import HeadstartError
from headstart.shipped import by_name, shipped_adapters, shipped_recipes


def test_the_checkouts_recipes_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "quickstart" in shipped_recipes()


def test_a_shipped_adapter_is_a_folder_with_an_adapter_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "shipped_folder", lambda kind: tmp_path / kind)
    assert shipped_adapters() == {}
    for name in ("b", "a"):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        (tmp_path / "adapters" / name / "adapter_config.json").write_text("{}")
    (tmp_path / "adapters" / "notes").mkdir()
    (tmp_path / "adapters" / "README.md").write_text("about")
    assert list(shipped_adapters()) == ["a", "b"]


def test_an_unknown_name_gets_the_nearest_and_all_there_are(tmp_path):
    there = {"smollm2-builtin": tmp_path, "other": tmp_path}
    assert by_name("other", there, "adapter folder", HeadstartError) == tmp_path
    with pytest.raises(HeadstartError, match=r"'smollm2-bultin'.*did you mean 'smollm2-builtin'\?; shipped: smollm2-builtin, other"):
        by_name("smollm2-bultin", there, "adapter folder", HeadstartError)
    with pytest.raises(HeadstartError, match="shipped: none"):
        by_name("x", {}, "adapter folder", HeadstartError)
