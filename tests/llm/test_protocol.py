from multigrain.llm.protocol import Request


def request(**changes: object) -> Request:
    return Request(**{"kind": "chat", "prompt": "p", "model": "m", "max_tokens": 5, "temperature": 0.5, **changes})  # type: ignore[arg-type]


def test_whatever_determines_the_answer_is_in_the_key_and_nothing_else() -> None:
    others = [
        request(**changes)
        for changes in (
            {"kind": "completion"},
            {"prompt": "q"},
            {"model": "n"},
            {"temperature": 0.6},
            {"seed": 1},
            {"stop": ("\n",)},
            {"schema": "{}"},
            {"version": "synthesize 2"},
        )
    ]
    assert len({r.key for r in [request(), *others]}) == len(others) + 1
    assert request(max_tokens=6).key == request().key  # an answer that was not cut holds under any limit
    assert request(prompt="\ud800\0" * 9).key  # whatever a prompt holds
