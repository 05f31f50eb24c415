"""The models that `llmchatbot models pull` knows by name: `catalogue.toml`."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from urllib.parse import unquote, urlsplit

import msgspec

from llmchatbot.errors import StartupError
from llmchatbot.llm_service.machine import LOOPBACK


class CatalogueModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry, or an address that somebody gave."""

    name: str
    url: str
    title: str = ""
    licence: str = ""
    note: str = ""
    size: int = 0  # bytes; 0: known only when the server says it
    sha256: str = ""  # empty: taken from the server, see pull.py

    @property
    def file_name(self) -> str:
        return unquote(urlsplit(self.url).path).rsplit("/", 1)[-1]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: list[CatalogueModel]


def catalogue() -> list[CatalogueModel]:
    """In the order of the file: smallest first."""
    text = files(__package__ or "").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), _File).model


def find_model(name_or_url: str, *, sha256: str = "") -> CatalogueModel:
    """Raises StartupError for a name that is not in the catalogue (it lists those that are) or an unfit address."""
    if "://" not in name_or_url:
        for model in catalogue():
            if model.name == name_or_url.lower():
                return model
        names = "\n".join(f"  {model.name:14} {model.title} ({model.licence})" for model in catalogue())
        raise StartupError(f"There is no model '{name_or_url}' in the catalogue. There are:\n{names}\nOr give a URL.")
    model = CatalogueModel(name=name_or_url, url=name_or_url, sha256=sha256.lower())
    address = urlsplit(name_or_url)
    if address.scheme != "https" and not (address.scheme == "http" and (sha256 or address.hostname in LOOPBACK)):
        raise StartupError("A model is downloaded over https://, or over http:// with its sum: --sha256 SUM.")
    if not re.fullmatch(r"[\w][\w.+-]*\.gguf", model.file_name):
        raise StartupError(f"The address must end in the name of a .gguf file; this one ends in '{model.file_name}'.")
    return model
