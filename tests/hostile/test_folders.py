from __future__ import annotations

from pathlib import Path

import pytest
from hostile.building import packed, plain, sharded
from hostile.cases import ALL, Case

from mlxquant.errors import FileFormatError, ModelError
from mlxquant.load.from_hf import open_folder


@pytest.mark.parametrize("case", ALL.values(), ids=ALL.keys())
def test_refused_in_one_line_that_says_why(case: Case, tmp_path: Path) -> None:
    path = case.build(tmp_path)
    with pytest.raises((FileFormatError, ModelError)) as caught:
        open_folder(path)
    message = str(caught.value)
    assert caught.value.exit_status == 2
    assert message.isprintable()
    for part in case.says:
        assert part in message


@pytest.mark.parametrize("build", [plain, packed, sharded])
def test_the_models_that_the_cases_break_are_whole(build: object, tmp_path: Path) -> None:
    build(tmp_path)
    assert len(open_folder(tmp_path).tensors) == 3
