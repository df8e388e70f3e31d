#!/bin/sh
# Makes the virtual environment that the make targets run in, from nothing but Python, a C++ compiler and git.
# Usage: scripts/bootstrap.sh FOLDER EXTRAS     e.g. scripts/bootstrap.sh .venv worker,demo
# What the machine lacks is named, all of it at once, with the command that installs it. PYTHON=... names the Python to take.
set -eu
cd "$(dirname "$0")/.."
venv=$1
extras=$2

fail() {
    echo "error: $*" >&2
    exit 1
}

has_version() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# Debian and Ubuntu ship `venv` without its ensurepip as a package of its own.
makes_environments() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

# The user's own `python3` comes first; a version that cannot make environments gives way to one that can.
find_python() {
    second=""
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if has_version "$name"; then
            if makes_environments "$name"; then
                echo "$name"
                return
            fi
            second=${second:-$name}
        fi
    done
    echo "$second"
}

install_command() {
    if ! command -v apt-get >/dev/null; then
        echo "install with this system's package manager what Debian calls$*"
    elif [ "$(id -u)" -eq 0 ]; then
        echo "apt-get update && apt-get install -y$*"
    elif command -v sudo >/dev/null; then
        echo "sudo apt-get update && sudo apt-get install -y$*"
    else
        echo "as root, apt-get update && apt-get install -y$*"
    fi
}

require() {
    lacking="" packages=""
    if [ -z "$python" ]; then
        lacking="Python 3.10 to 3.13 (${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>/dev/null || echo missing))"
        packages=" python3 python3-venv"
    elif ! makes_environments "$python"; then
        lacking="the ensurepip module of $python"
        packages=" $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    if [ -z "${CXX:-}" ] && ! command -v c++ >/dev/null && ! command -v g++ >/dev/null; then
        lacking="${lacking:+$lacking, }a C++ compiler" packages="$packages g++"
    fi
    for tool in git make; do
        command -v $tool >/dev/null || { lacking="${lacking:+$lacking, }$tool"; packages="$packages $tool"; }
    done
    [ -z "$lacking" ] || fail "this machine lacks $lacking: $(install_command "$packages")"
}

python=$(find_python)
require
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "==> Virtual environment in $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi
has_version "$venv/bin/python" ||
    fail "$venv has $("$venv/bin/python" --version), and Python 3.10 to 3.13 is needed: remove the folder and try again"
echo "==> TensorFlow and the other Python packages [$extras] (usually 1 to 3 minutes, 2 GB)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --editable ".[$extras]"
echo "==> Horovod (compiled once, usually 2 to 4 minutes; then taken from the cache)"
"$venv/bin/python" -m edl_allreduce.horovod_wheel install
"$venv/bin/python" -m edl_allreduce.horovod_wheel check
