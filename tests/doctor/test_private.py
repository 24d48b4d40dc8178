"""Names of people and machines do not get into a report."""

from __future__ import annotations

import pytest

from mlxquant.doctor.private import Private, private

JANE = Private(("/Users/jane", "/System/Volumes/Data/Users/jane"), "jane", "janes-air.local")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/Users/jane/Library/Caches", "~/Library/Caches"),
        ("/System/Volumes/Data/Users/jane/x: denied", "~/x: denied"),
        ("/Users/jane", "~"),
        ("/Users/janet/x", "/Users/janet/x"),
        ("/Volumes/jane/cache, 3 files", "/Volumes/<user>/cache, 3 files"),
        ("jane's plan of jane-like things", "jane's plan of jane-like things"),
        ("on janes-air.local: no", "on <host>: no"),
        ("on janes-air, no", "on <host>, no"),
        ("/net/janes-air/tmp", "/net/<host>/tmp"),
        ("janes-airport", "janes-airport"),
        ("Q4_K of Apple M3", "Q4_K of Apple M3"),
    ],
)
def test_texts(text: str, wanted: str) -> None:
    assert JANE(text) == wanted


def test_documents_keep_their_shape() -> None:
    document = {"jane": ["/Users/jane/a", 1, None, 2.5, True, ("/x/jane",)]}
    assert JANE(document) == {"jane": ["~/a", 1, None, 2.5, True, ["/x/<user>"]]}


def test_names_that_are_nobody_s_stay() -> None:
    plain = Private(("/",), "root", "localhost")
    text = "/root/x on localhost, root, /"
    assert plain(text) == text
    assert Private(("/root",), "root", "")("/root/x, root") == "~/x, root"


def test_of_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere/kim")
    monkeypatch.setenv("LOGNAME", "kim")
    monkeypatch.setattr("socket.gethostname", lambda: "kims-tower")
    found = private()("/somewhere/kim/x /other/kim/y kims-tower")
    assert found == "~/x /other/<user>/y <host>"


def test_a_system_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", silent)
    monkeypatch.setattr("pathlib.Path.home", silent)
    monkeypatch.setattr("socket.gethostname", silent)
    assert private()("/Users/jane on tower") == "/Users/jane on tower"
