"""Where messages go."""

import os
from pathlib import Path

from multigrain.progress import leave_hung_up


def test_a_terminal_that_is_gone_is_left(tmp_path: Path) -> None:
    """Whatever is written to it would be an error; other places stay as they are."""
    master, slave = os.openpty()
    log = tmp_path / "log"
    kept = os.open(log, os.O_WRONLY | os.O_CREAT)
    leave_hung_up((slave, kept))
    assert os.isatty(slave)
    os.close(master)
    leave_hung_up((slave, kept))
    assert os.write(slave, b"lost") == os.write(kept, b"kept") == log.stat().st_size
    os.close(slave)
    os.close(kept)
