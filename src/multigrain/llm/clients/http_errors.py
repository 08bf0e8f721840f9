"""Translate HTTP errors into `LLMError`s, which say whether a retry may help and whether the call may be charged."""

import errno
import re

import aiohttp

from multigrain.errors import LLMError, LLMRefused, LLMUnavailable
from multigrain.llm.clients.retry_after import retry_after

PAYMENT_REQUIRED = 402
_NO_CREDIT = re.compile(r"insufficient[ _](?:quota|credit|balance|funds)", re.IGNORECASE)


def connection_error(url: str, error: Exception, timeout: float) -> LLMError:
    """Translate an error of the HTTP client.

    Args:
        url: the address, for the message.
        error: what aiohttp or the operating system raised.
        timeout: the request's time limit, in seconds.
    """
    if isinstance(error, TimeoutError):
        is_connected = not isinstance(error, aiohttp.ConnectionTimeoutError)
        limit = f"no answer within {timeout:g} s (llm.timeout)" if is_connected else "no connection"
        return LLMUnavailable(f"{url}: {limit}.", billed=is_connected)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        hint = "For your own certificate authority, set the environment variable SSL_CERT_FILE."
        return LLMRefused(f"{url}: its certificate is not trusted: {error}. {hint}")
    if isinstance(error, aiohttp.ClientSSLError):
        return LLMRefused(f"{url}: no secure connection: {error}. Is it an http:// address?")
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return LLMRefused(f"{url}: too many open files. Lower llm.max_concurrency, or raise the limit (ulimit -n).")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError):
        return LLMUnavailable(f"{url}: {error}.")
    return LLMUnavailable(f"{url}: {error or type(error).__name__}.", billed=True)


def refusal(url: str, response: aiohttp.ClientResponse, text: str) -> LLMError:
    """Return the error for a response without a success status.

    Args:
        url: the address, for the message.
        response: its status and headers.
        text: its body.
    """
    status, said = response.status, " ".join(text.split())[:200]
    message = f"{url}: HTTP {status}: {said}"
    says_no_credit = status in (403, 429) and _NO_CREDIT.search(text)
    if status == PAYMENT_REQUIRED or says_no_credit:
        return LLMRefused(f"{message} The account has no credit left.", PAYMENT_REQUIRED)
    if status in (408, 425, 429) or (status >= 500 and status != 501):
        # Behind a gateway that gave up, the model may have continued.
        return LLMUnavailable(message, status, billed=status in (502, 504), retry_after=retry_after(response.headers))
    if status in (401, 403):
        hint = "The key was refused: check the environment variable of llm.api_key_env or llm.extra_headers."
    elif status == 404:
        hint = "Are llm.base_url and llm.model right? Raw completions need a server with /completions."
    elif 300 <= status < 400:
        elsewhere = response.headers.get("Location", "?")
        return LLMRefused(
            f"{message} The server redirects to {elsewhere}. Set llm.base_url to the right address.", status
        )
    else:
        hint = "The server refuses this request."
    return LLMRefused(f"{message} {hint}", status, said=text)
