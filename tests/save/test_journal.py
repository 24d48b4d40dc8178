"""What a journal says after any cut, and who may write to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxquant import OutputError
from mlxquant.save.journal import Journal


def test_a_torn_line_of_the_journal_is_ignored(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "partial" / "journal")
    journal.begin("this")
    journal.add([3, 14])
    journal.add([159, 2])
    journal.close()
    path = tmp_path / "partial" / "journal"
    whole = path.read_bytes()
    second = whole.index(b"159")
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        again = Journal(path)
        again.begin("this")
        assert again.finished == ({3, 14} if cut >= second else set())
        again.add([6])
        again.close()
        last = Journal(path)
        last.begin("this")
        assert last.finished == again.finished
        assert 6 in last.finished
        last.close()


def test_the_journal_is_locked_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "partial" / "journal"
    first = Journal(path)
    with pytest.raises(OutputError, match="partial: another run is writing here"):
        Journal(path)
    first.close()
    Journal(path).close()
