"""Files for the Batch API, which answers requests within a day at half the price, or for `vllm run-batch`, offline.

The requests of a batch are in `NAME.jsonl`, in OpenAI's format, with the input's key as `custom_id`. The answers are in
`NAME.output.jsonl`. A server with `/files` and `/batches` takes and returns the files itself; for any other server, the
user moves them by hand.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp

from multigrain.errors import DataError, LLMError, LLMReplyError, LLMUnavailable
from multigrain.files import atomic_file
from multigrain.llm.clients.endpoint import EndpointClient
from multigrain.llm.clients.request_body import encode, request_body
from multigrain.llm.dialect import Dialect
from multigrain.llm.protocol import Answer, Request
from multigrain.llm.response_body import read_answer
from multigrain.records import encodable

MOST_REQUESTS, MOST_BYTES = 50_000, 190 * 10**6
"""Limits of one file, in requests and bytes; OpenAI's are no lower."""
WINDOW = "24h"
"""Completion window of a batch; OpenAI supports no other."""
PAGE = 100
"""Batches per page of a server's list."""
ENDED = ("completed", "failed", "expired", "cancelled")
"""Final states of a batch."""
WANTED = 'Wanted lines with "custom_id" and "response" or "error", as the engine wrote them.'


def write_batch(requests: Iterable[tuple[str, Request]], path: Path, dialect: Dialect) -> list[str]:
    """Write as many of the requests as one file may hold.

    Args:
        requests: (key, request) pairs; an iterator keeps the requests that are not written.
        path: the file to write.
        dialect: the server's dialect.

    Returns:
        The keys of the requests that were written.
    """
    keys, size = [], 0
    with atomic_file(path) as file:
        for key, request in requests:
            line = request_line(key, request, dialect)
            file.write(line)
            keys.append(key)
            size += len(line)
            if len(keys) >= MOST_REQUESTS or size >= MOST_BYTES:
                break
    return keys


def request_line(key: str, request: Request, dialect: Dialect) -> bytes:
    """Return a request as a line of a batch file, in the dialect of a server."""
    body = request_body(request, dialect)
    return encode({"custom_id": key, "method": "POST", "url": f"/v1/{body.path}", "body": body.fields}) + b"\n"


def read_output(path: Path) -> Iterator[tuple[str, Answer | LLMError]]:
    """Yield (key, answer or error) for each line of an output or error file; damaged lines are skipped."""
    if not path.is_file():
        return
    for line in path.open("rb"):
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            yield str(fields.get("custom_id")), _outcome(fields)


class AnswerLine(NamedTuple):
    """A line of an output file: the key of the request, its answer or error, and a digest of both."""

    key: str
    outcome: Answer | LLMError
    digest: str
    """Of the response as the engine wrote it, so that the same line is known again in any file."""


def read_answers(path: Path) -> Iterator[AnswerLine | None]:
    """Yield the lines of an output file one by one, and None for a last line that was cut off; skip blank lines.

    Raises:
        DataError: the file cannot be read, or a line is not an answer.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _answer_line(line, path, number)
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}. Give the files that the engine wrote.") from None


def _answer_line(line: bytes, path: Path, number: int) -> AnswerLine | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        if not line.endswith(b"\n"):  # the engine was stopped while it wrote
            return None
        advice = f"{WANTED} Delete the line, which leaves its request open, then import again"
        raise DataError(path, f"not JSON ({error}). {advice}.", number) from None
    if not isinstance(fields, dict) or not isinstance(fields.get("custom_id"), str):
        raise DataError(path, f"found {line[:60].decode('utf-8', 'replace').strip()!r}. {WANTED}", number)
    if "response" not in fields and "error" not in fields:
        found = "a request, not an answer" if "body" in fields else "neither response nor error"
        raise DataError(path, f"found {found}. {WANTED}", number)
    said = json.dumps([fields.get("response"), fields.get("error")], sort_keys=True)
    digest = hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
    return AnswerLine(encodable(fields["custom_id"]), _outcome(fields), digest)


def _outcome(fields: dict[str, Any]) -> Answer | LLMError:
    """Return the answer in a line of an output file, or the error that it reports."""
    response = fields.get("response")
    response = response if isinstance(response, dict) else {}
    status, body = response.get("status_code"), response.get("body")
    if status != HTTPStatus.OK:
        said = json.dumps(fields.get("error") or body)[:200]
        return LLMUnavailable(f"the batch answered HTTP {status}: {said}", status)
    try:
        return read_answer(body)
    except LLMError as error:
        return error


async def upload(client: EndpointClient, path: Path) -> str:
    """Upload a file of requests; return the server's id for it."""
    form = aiohttp.FormData({"purpose": "batch"})
    with path.open("rb") as file:
        form.add_field("file", file, filename=path.name, content_type="application/jsonl")
        return _id(await client.http.call("POST", "files", form))


async def find(client: EndpointClient, file_id: str) -> str | None:
    """Search the server's batches for the one of this file; return its id, or None."""
    seen: set[str] = set()
    page = await client.http.call("GET", f"batches?limit={PAGE}")
    while batches := [batch for batch in _entries(page) if _id(batch) not in seen]:
        for batch in batches:
            if batch.get("input_file_id") == file_id:
                return _id(batch)
        seen.update(map(_id, batches))
        if page.get("has_more") is False:
            break
        page = await client.http.call("GET", f"batches?limit={PAGE}&after={quote(_id(batches[-1]), safe='')}")
    return None


def _entries(page: Any) -> list[Any]:
    return (page.get("data") or []) if isinstance(page, dict) else []


async def start(client: EndpointClient, file_id: str, kind: str) -> str:
    """Start a batch on the server; return its id."""
    where = "/v1/chat/completions" if kind == "chat" else "/v1/completions"
    wanted = {"input_file_id": file_id, "endpoint": where, "completion_window": WINDOW}
    return _id(await client.http.call("POST", "batches", encode(wanted)))


async def fetch_state(client: EndpointClient, batch_id: str) -> dict[str, Any]:
    """Return the server's record of a batch: `status`, `request_counts`, `output_file_id`, `error_file_id`.

    Raises:
        LLMReplyError: the reply is not such a record.
    """
    state = await client.http.call("GET", f"batches/{batch_id}")
    if not isinstance(state, dict) or not isinstance(state.get("status"), str):
        raise LLMReplyError(f"{client.address}: not a batch record: {json.dumps(state)[:120]}")
    return state


async def download(client: EndpointClient, file_id: str, path: Path) -> None:
    """Fetch a file from the server."""
    with atomic_file(path) as file:
        async for part in client.http.stream(f"files/{file_id}/content"):
            file.write(part)


def _id(reply: Any) -> str:
    if not isinstance(reply, dict) or not isinstance(reply.get("id"), str):
        raise LLMReplyError(f"not an OpenAI-style record: {json.dumps(reply)[:120]}")
    return str(reply["id"])
