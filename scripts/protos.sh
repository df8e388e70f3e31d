#!/bin/sh
# Generates the Python code of every .proto file, with a compiler old enough that the code loads with protobuf 6.31 to 7.x and grpcio 1.73+.
# The generated files are committed, so only who changes a .proto needs this. Its tools live in a cache of their own, since they pin
# an older protobuf than TensorFlow wants.
set -eu
cd "$(dirname "$0")/.."
tools="${XDG_CACHE_HOME:-$HOME/.cache}/edl_allreduce/protos-1.73.1"
if [ ! -e "$tools/complete" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check "grpcio-tools==1.73.1" "setuptools<80" "mypy-protobuf==3.6.0"
    touch "$tools/complete"
fi
PATH="$tools/bin:$PATH"
protos=$(git ls-files --cached --others --exclude-standard '*.proto')
# shellcheck disable=SC2086
python -m grpc_tools.protoc -I . --python_out=. --mypy_out=. $protos
for proto in $protos; do
    if grep -q '^service ' "$proto"; then
        python -m grpc_tools.protoc -I . --grpc_python_out=. --mypy_grpc_out=. "$proto"
    fi
done
echo "generated the Python code of: $protos"
