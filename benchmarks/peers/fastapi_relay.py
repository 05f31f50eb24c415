"""The usual Python way to relay a model's stream: FastAPI, httpx, StreamingResponse, uvicorn with uvloop.

As tutorials write it, with the two things a competent author adds: one shared client, and a pool without its default
limit of 100 connections. Nothing is stored, nobody is authenticated.
"""

import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

UPSTREAM = os.environ["UPSTREAM_URL"]


class Send(BaseModel):
    content: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=4096)
    async with httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(30, read=60)) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


async def relay(client: httpx.AsyncClient, content: str) -> AsyncIterator[str]:
    body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": content}]}
    parts: list[str] = []
    async with client.stream("POST", f"{UPSTREAM}/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            data = line[6:]
            if data == "[DONE]":
                final = {"type": "complete", "content": "".join(parts), "tokens": len(parts)}
                yield f"data: {json.dumps(final)}\n\n"
                return
            choices = json.loads(data)["choices"]
            token = choices[0]["delta"].get("content") if choices else None
            if token:
                parts.append(token)
                yield f"data: {json.dumps({'type': 'token', 'content': token})}\n\n"
    yield f"data: {json.dumps({'type': 'error', 'content': 'the upstream ended early'})}\n\n"


@app.post("/api/v1/chats/{chat_id}/messages")
async def send(chat_id: str, message: Send, request: Request) -> StreamingResponse:
    return StreamingResponse(
        relay(request.app.state.client, message.content),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])
