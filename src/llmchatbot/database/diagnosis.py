"""Failed connections in words: what is wrong, and what to type. No password ever stands in a sentence."""

from __future__ import annotations

import shlex
import socket
import ssl

import asyncpg

from llmchatbot.database.address import Address
from llmchatbot.database.pool import is_unavailable
from llmchatbot.errors import DatabaseUnavailable, StartupError

CONNECT_TIMEOUT = 5.0


def explain(error: Exception, address: Address) -> StartupError | DatabaseUnavailable:
    """StartupError when somebody has to change something, DatabaseUnavailable when waiting may help."""
    if sentence := _verdict(error, address):
        return StartupError(sentence)
    where = f"{address.host}:{address.port}"
    if is_unavailable(error):
        return DatabaseUnavailable(f"PostgreSQL at {where} cannot be had: {_silence(error, address)}")
    return StartupError(f"The database at {where} cannot be used: {error}")


def _verdict(error: Exception, address: Address) -> str:
    role, database, where = quoted(address.user), quoted(address.database), f"{address.host}:{address.port}"
    sentence = ""
    match error:
        case asyncpg.InvalidPasswordError():
            sentence = (
                f"The server at {where} refused the password of role {role} (or has no such role).\n"
                f"Set DB_PASSWORD to the right one. To set a new one, as a superuser: ALTER ROLE {role} PASSWORD '…';\n"
                f"To make the role: {_by_script(address)}"
            )
        case asyncpg.InvalidAuthorizationSpecificationError():
            sentence = _not_let_in(str(error), address)
        case asyncpg.InsufficientPrivilegeError():
            sentence = (
                f"The role {role} may not connect to the database {database}: {error}.\n"
                f"As a superuser: GRANT CONNECT ON DATABASE {database} TO {role};"
            )
        case asyncpg.ClientConfigurationError():
            sentence = f"DB_SSLMODE={address.sslmode} cannot work: {error}"
        case ssl.SSLError():
            sentence = (
                f"The server at {where} has no certificate that DB_SSLMODE={address.sslmode} accepts: {error}.\n"
                "Put the authority's certificate into ~/.postgresql/root.crt, or set DB_SSLMODE=require."
            )
        case ConnectionError() if "SSL" in str(error):
            sentence = (
                f"The server at {where} does not speak TLS, and DB_SSLMODE={address.sslmode} demands it.\n"
                "Turn TLS on in the server (ssl = on), or set DB_SSLMODE=prefer or disable."
            )
    return sentence


def _not_let_in(sentence: str, address: Address) -> str:
    role = quoted(address.user)
    if "does not exist" in sentence:
        return (
            f"The server at {address.host} has no role {role}.\n"
            f"Make it, as a superuser: {_by_script(address)}\n"
            f"or: CREATE ROLE {role} LOGIN PASSWORD '…' CREATEDB;"
        )
    if "not permitted to log in" in sentence:
        return f"The role {role} may not log in. As a superuser: ALTER ROLE {role} LOGIN;"
    if "pg_hba.conf" in sentence:
        tls = " If it lets only TLS connections in: DB_SSLMODE=require." if "no encryption" in sentence else ""
        return (
            f"The server's pg_hba.conf does not let us in: {sentence}.{tls}\n"
            f"Otherwise add a line to that file and reload: hostssl {address.database} {address.user} <our address>/32 "
            "scram-sha-256, then SELECT pg_reload_conf();"
        )
    return f"The server at {address.host} did not let the role {role} in: {sentence}. See its pg_hba.conf."


def _silence(error: Exception, address: Address) -> str:
    match error:
        case TimeoutError():
            return f"no answer in {CONNECT_TIMEOUT:.0f} s.\nCheck DB_HOST, DB_PORT and the firewall between."
        case socket.gaierror():
            return f"the name {address.host} is not known.\nCheck DB_HOST."
        case ConnectionRefusedError() | FileNotFoundError():
            return "nothing listens there.\nCheck DB_HOST and DB_PORT, and that the server runs (pg_isready)."
        case asyncpg.TooManyConnectionsError():
            return "all its connections are taken.\nRaise max_connections there, or lower DB_MAX_OPEN_CONNS."
        case asyncpg.CannotConnectNowError():
            return "it is starting up or shutting down."
        case _:
            return str(error) or type(error).__name__


def missing_database(address: Address) -> str:
    database, role = quoted(address.database), quoted(address.user)
    return (
        f"The server at {address.host} has no database {database}, and the role {role} may not create it.\n"
        f"As a superuser: CREATE DATABASE {database} OWNER {role} ENCODING 'UTF8' TEMPLATE template0;\n"
        f"or let the role do it: ALTER ROLE {role} CREATEDB;  or: {_by_script(address)}"
    )


def _by_script(address: Address) -> str:
    """The line to type in a checkout: with the password that the script wants, and with what it does not assume."""
    usual = Address(host=address.host)
    port = "" if address.port == usual.port else f" -p {address.port}"
    names = [("role", address.user, usual.user), ("database", address.database, usual.database)]
    others = "".join(f" -v {name}={shlex.quote(value)}" for name, value, assumed in names if value != assumed)
    where = shlex.quote(address.host)
    return f"DB_PASSWORD='…' psql -h {where}{port} -U postgres{others} -f scripts/init_db.sql"


def quoted(identifier: str) -> str:
    """For sentences that are pasted into psql."""
    return '"' + identifier.replace('"', '""') + '"'
