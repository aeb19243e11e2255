"""What tests of readers share: caches of their own, no network, and a system that refuses."""

import pytest


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory, monkeypatch):
    """Nothing is cached outside, and nothing may ask the network."""
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def denied(monkeypatch):
    """Makes the system refuse a path to everyone, root among them."""

    def deny(module, name, path, error):
        real = getattr(module, name)

        def refusing(asked, *rest, **options):
            if str(asked) == str(path):
                raise OSError(error, "told by the system", str(asked))
            return real(asked, *rest, **options)

        monkeypatch.setattr(module, name, refusing)

    return deny
