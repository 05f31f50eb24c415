"""The newest chats of one owner, the usual Python way: FastAPI, SQLAlchemy's async ORM over asyncpg, Pydantic, uvicorn.

No authentication; the owner is named in the query.
"""

import os
import socket
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated
from uuid import UUID

import uvicorn
from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Chat(Base):
    __tablename__ = "chats"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    title: Mapped[str]
    model_used: Mapped[str]
    message_count: Mapped[int]
    archived_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    @property
    def is_archived(self) -> bool:
        return self.archived_at is not None


class ChatView(BaseModel):
    model_config = ConfigDict(from_attributes=True, protected_namespaces=())

    id: UUID
    title: str
    model_used: str
    created_at: datetime
    updated_at: datetime
    is_archived: bool
    message_count: int


engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=10)
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


async def open_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/api/v1/chats", response_model=list[ChatView])
async def chats(user: UUID, session: Annotated[AsyncSession, Depends(open_session)]) -> list[Chat]:
    query = (
        select(Chat)
        .where(Chat.user_id == user, Chat.archived_at.is_(None))
        .order_by(Chat.updated_at.desc(), Chat.id.desc())
        .limit(20)
    )
    return list((await session.scalars(query)).all())


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])
