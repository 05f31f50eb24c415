"""Which model `make run` starts by itself."""

from __future__ import annotations

import re
from pathlib import Path

from llmchatbot.config import Settings
from llmchatbot.llm_service.engine import installed

_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")


def find_local_model(settings: Settings) -> Path | None:
    """The model that `make run` starts: LOCAL_MODEL, else the newest `*.gguf` in DATA_DIR/models; None: there is none.

    LLM_SERVICE_URL comes before both, and a file that was only found steps back before any other model that was set up.
    Without the extra `local` files in DATA_DIR are left alone, but LOCAL_MODEL, asked for by name, is returned: the
    child then says what to install.
    """
    model = settings.model
    if model.service_url:
        return None
    if model.local_model:
        return Path(model.local_model).expanduser()
    if model.models_file or model.openai_key or model.anthropic_key or model.gemini_key or model.openrouter_key:
        return None
    folder = settings.server.data_dir / "models"
    if not installed() or not folder.is_dir():
        return None
    # A projector for pictures is no model, and of a model in parts only the first is opened.
    files = [
        file
        for file in folder.glob("*.gguf")
        if not file.name.startswith("mmproj") and not _LATER_PART.search(file.name)
    ]
    return max(files, key=lambda file: file.stat().st_mtime, default=None)
