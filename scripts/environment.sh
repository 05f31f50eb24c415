#!/bin/sh
# Make the virtual environment and install one set of hashed requirements: environment.sh VENV base|local|dev
#
# Nothing is installed that has no hash in requirements/: the package itself is put on the path, not built.
set -eu

venv=$1
set_name=$2
root=$(cd "$(dirname "$0")/.." && pwd)
requirements=$root/requirements/$set_name.txt

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON3:-} python3 python3.13 python3.12 python3.11 python3.14; do
        if is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer was not found." \
        "Install it (Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python)," \
        "or say where it is: make run PYTHON3=/path/to/python3"
}

# A shim of a version manager may be on the path and not run.
have_uv() {
    uv --version >/dev/null 2>&1
}

if ! is_new_enough "$venv/bin/python"; then
    python=$(find_python)
    echo "Making $venv with $("$python" --version)."
    if have_uv; then
        uv venv --quiet --allow-existing --python "$python" "$venv"
    else
        "$python" -m venv "$venv" || fail "" \
            "$python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
    fi
fi

echo "Installing $(grep -c '^[a-z].*==' "$requirements") packages from requirements/$set_name.txt (only this once)."
if have_uv; then
    uv pip install --quiet --python "$venv/bin/python" --require-hashes --requirement "$requirements"
else
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip --upgrade >/dev/null
    # One line a package: a first start on a slow network shows that it goes on.
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --require-hashes \
        --requirement "$requirements"
fi

packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' "$root/src" >"$packages/llmchatbot.pth"
cat >"$venv/bin/llmchatbot" <<'COMMAND'
#!/bin/sh
exec "$(dirname "$0")/python" -m llmchatbot "$@"
COMMAND
chmod +x "$venv/bin/llmchatbot"
touch "$venv/.stamp-$set_name"
