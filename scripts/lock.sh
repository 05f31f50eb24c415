#!/bin/sh
# Resolve pyproject.toml into requirements/*.txt, with the hashes of every platform's files: lock.sh [--upgrade]
set -eu
cd "$(dirname "$0")/.."
uv --version >/dev/null 2>&1 || { echo "This needs uv: pip install uv" >&2; exit 1; }

compile() {
    output=requirements/$1.txt
    shift
    uv pip compile --quiet --generate-hashes --no-emit-index-url --universal --python-version 3.11 \
        --custom-compile-command "make lock" --output-file "$output" "$@" pyproject.toml
}

compile base "$@"
compile local "$@" --constraint requirements/base.txt --extra local
compile dev "$@" --constraint requirements/base.txt --group dev
