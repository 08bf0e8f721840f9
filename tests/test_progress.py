import pytest

from multigrain import progress
from multigrain.progress import meter


def test_a_meter_inside_another_is_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_mode", "auto")
    with meter("outer", 2) as outer, meter("inner", 9) as inner:
        inner.advance(9)
        outer.advance(2)
    assert [line.split(" ")[:2] for line in capsys.readouterr().err.splitlines()] == [["outer", "2/2"]]
    with pytest.raises(ZeroDivisionError), meter("broken", 1):
        raise ZeroDivisionError
    with meter("next", 1) as after:
        after.advance()
    assert "next 1/1" in capsys.readouterr().err
