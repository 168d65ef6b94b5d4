# Sourced by setup.sh and lock.sh: sets UV to a uv that runs, fetched into .tools/ when there is none.
# shellcheck shell=bash

say() { printf '[setup] %s\n' "$*" >&2; }
die() {
    printf '[setup] error: %s\n' "$*" >&2
    exit 2
}

# A command on PATH may be a shim that fails when run (pyenv), so candidates are run, not looked up.
runs() { "$@" >/dev/null 2>&1; }

# pip as a file from the package index in PIP_INDEX_URL, for a python3 that came without pip and without
# ensurepip (Debian's, for one).
fetch_pip_wheel() {
    python3 - "$1" <<'PY'
import hashlib, os, pathlib, re, sys, urllib.parse, urllib.request

page = os.environ["PIP_INDEX_URL"].rstrip("/") + "/pip/"
with urllib.request.urlopen(page, timeout=30) as reply:
    links = re.findall(r'href="([^"]+)"', reply.read().decode())
wheel = re.compile(r"/pip-(\d+(?:\.\d+)*)-py3-none-any\.whl#sha256=([0-9a-f]{64})$")
found = [(tuple(map(int, m[1].split("."))), link, m[2]) for link in links if (m := wheel.search(link))]
version, link, sha256 = max(found)
with urllib.request.urlopen(urllib.parse.urljoin(page, link), timeout=60) as reply:
    content = reply.read()
if hashlib.sha256(content).hexdigest() != sha256:
    sys.exit("the pip wheel does not have the SHA-256 that the index gives for it")
path = pathlib.Path(sys.argv[1], "pip-" + ".".join(map(str, version)) + "-py3-none-any.whl")
path.write_bytes(content)
print(path)
PY
}

find_uv() {
    export PIP_ROOT_USER_ACTION=ignore
    local candidate wheel
    for candidate in uv .tools/uv/bin/uv; do
        if runs "$candidate" --version; then
            UV=$candidate
            return
        fi
    done
    runs python3 -c '' || die "python3 does not run; install any Python 3 or uv (https://docs.astral.sh/uv) first"
    say "fetching uv into .tools/ (not found on PATH)"
    mkdir -p .tools
    if runs python3 -m pip --version; then
        python3 -m pip install --quiet --upgrade --target .tools/uv uv
    elif runs python3 -m venv .tools/pip; then
        .tools/pip/bin/python -m pip install --quiet --upgrade --target .tools/uv uv
    else
        rm -rf .tools/pip
        wheel=$(fetch_pip_wheel .tools) || die "this python3 has neither pip nor ensurepip: install one of them (Debian: python3-pip) or uv (https://docs.astral.sh/uv), or set PIP_INDEX_URL to a package index to fetch pip from"
        python3 "$wheel/pip" install --quiet --upgrade --target .tools/uv uv
    fi
    UV=.tools/uv/bin/uv
    runs "$UV" --version || die "uv was installed into .tools/uv but does not run; install uv yourself and put it on PATH"
}
