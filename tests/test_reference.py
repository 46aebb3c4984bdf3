"""The generated files are those that the settings give."""

from pathlib import Path

import pytest

from unetpipe import reference

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", [reference.SCHEMA, reference.README], ids=str)
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert (ROOT / path).read_text() == reference.files()[path], "run `make schema`"


def test_a_difference_is_found_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in reference.files():
        path.parent.mkdir(parents=True)
    assert reference.main(["--check"]) == 1
    assert "run `make schema`" in capsys.readouterr().out
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
