import email.utils
import time

import pytest

from multigrain.errors import LLMUnavailable
from tests.llm.clients.local_server import ask, with_server, with_status


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({"Retry-After": "9" * 400}, 3600.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:10 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 10.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:10 -0000", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 10.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:10", "Date": "Wed, 21 Oct 2015 07:28:00"}, 10.0),
        ({"Retry-After": "Wed, 21 Oct 2065 07:28:10 GMT", "Date": "soon"}, 3600.0),
        ({"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
        ({"Retry-After": "Mon, 01 Jan 2024 00:00:00 +99999999999999"}, None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    with pytest.raises(LLMUnavailable) as caught:
        with_server(with_status(429, **headers), ask)
    assert caught.value.retry_after == seconds


def test_a_date_to_wait_for() -> None:
    with pytest.raises(LLMUnavailable) as caught:
        with_server(with_status(503, **{"Retry-After": email.utils.formatdate(time.time() + 60, usegmt=True)}), ask)
    assert caught.value.retry_after is not None
    assert 55 < caught.value.retry_after <= 60
