"""A complete client for answers that are never lost: sends, follows through any number of drops, stops.

Python 3.11 and its standard library. The rules behind it: docs/streaming.md.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

# Three heartbeats: the connection is dead even if nobody has said so.
SILENCE = 45.0
PASSING = {429, 502, 503, 504}


class ChatClient:
    def __init__(self, base: str, token: str) -> None:
        self.base = base
        self.token = token

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        """Again while nobody answers, or the answer is that this will pass. Raises HTTPError for a refusal."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **headers}
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        pause = 0.2
        while True:
            try:
                response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=SILENCE)
                return response
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in PASSING:
                    raise
                time.sleep(pause)
            except (OSError, http.client.HTTPException):
                time.sleep(pause)  # nobody there: the same as "not now"
            pause = min(pause * 2, 5.0)

    def send(self, chat: str, content: str, **options: Any) -> str:
        """One message however often this is tried: the server knows the key and gives the same answer again."""
        body = {"content": content, "request_id": uuid.uuid4().hex, **options}
        with self.request("POST", f"/api/v1/chats/{chat}/messages", body) as response:
            generation: str = json.load(response)["generation"]["id"]
            return generation

    def stop(self, generation: str) -> dict[str, Any]:
        """Close the connection to the model and keep the text; everybody who asks gets the same receipt."""
        with self.request("POST", f"/api/v1/generations/{generation}/stop") as response:
            receipt: dict[str, Any] = json.load(response)
            return receipt

    def follow(self, generation: str, last_id: str = "", text: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (text so far, event) after each event, `complete` or `error` last. Leaving the loop stops nothing."""
        pause = 1.0
        while True:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
            with self.request("GET", f"/api/v1/generations/{generation}/stream", **headers) as response:
                if response.status == 204:
                    return
                for fields in blocks(response):
                    last_id = fields.get("id", last_id)
                    pause = float(fields["retry"]) / 1000 if "retry" in fields else pause
                    event = json.loads(fields.get("data", "{}"))
                    if event.get("type") == "token":
                        text += event["content"]
                    elif event.get("type") == "reset":
                        text = event["content"]
                    yield text, event
                    if event.get("type") in {"complete", "error"}:
                        return
            time.sleep(pause)


def blocks(response: http.client.HTTPResponse) -> Iterator[dict[str, str]]:
    """The blocks of an event stream. What a cut leaves unfinished is dropped: its id was never taken."""
    fields: dict[str, str] = {}
    try:
        for line in response:
            if line == b"\n":
                yield fields
                fields = {}
            elif line.endswith(b"\n") and not line.startswith(b":"):
                name, _, value = line.decode("ascii").rstrip("\n").partition(": ")
                fields[name] = value
    except (OSError, http.client.HTTPException):
        return
