import pytest
from aiohttp import web

from multigrain.llm.protocol import Answer
from tests.llm.clients.local_server import ask, good, with_server


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        ("gemini-2.5-flash", "models/gemini-2.5-flash"),
        ("models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("llama3.2", "llama3.2:latest"),
        ("deepseek/deepseek-r1:free", "deepseek/deepseek-r1"),
        ("openai/gpt-x", "openai/*"),
        ("openai/gpt-x", "*"),
        ("Qwen3-8B", "qwen3-8b"),
    ],
)
def test_variants_of_a_listed_model_are_listed(model: str, listed: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "another"}, {"id": listed}]})

    assert with_server(good, lambda url: ask(url, model=model), models=models) == Answer("good")
    assert not capsys.readouterr().err
