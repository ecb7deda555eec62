"""The exception tree, errors for missing extras, and the public names."""

import builtins

import pytest

import osnet
from osnet import errors
from osnet.errors import MissingExtraError, OsnetError, require_extra


def test_every_error_is_an_osnet_error_and_is_documented() -> None:
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, OsnetError)
            assert name in (errors.__doc__ or "")


def test_a_missing_extra_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert require_extra("json", "train").__name__ == "json"
    with pytest.raises(MissingExtraError, match=r"no_such_library is not installed.*pip install 'osnet\[train\]'"):
        require_extra("no_such_library", "train")
    real = builtins.__import__

    def without_accelerate(name: str, *args, **kwargs):
        if name.split(".")[0] == "accelerate":
            raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_accelerate)
    monkeypatch.setattr("osnet.errors.import_module", without_accelerate)
    with pytest.raises(ImportError, match=r"osnet\[train\]"):
        require_extra("accelerate", "train")


def test_a_broken_extra_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_name: str) -> None:
        raise ModuleNotFoundError("No module named 'other'", name="other")

    monkeypatch.setattr("osnet.errors.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="'other'") as caught:
        require_extra("accelerate", "train")
    assert not isinstance(caught.value, MissingExtraError)


def test_public_names() -> None:
    for name in osnet.__all__:
        assert getattr(osnet, name) is not None
    assert sorted(osnet.__all__) == sorted(dir(osnet))
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = osnet.nothing_like_it
