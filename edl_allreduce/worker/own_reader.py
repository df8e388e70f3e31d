"""Makes a model's own data reader; as a program, lists its shards for the coordinator, which runs no user code.

`python -m edl_allreduce.worker.own_reader` takes {"model": …, "data": …, "records_per_task": …} from standard input,
and writes [[shard, first record, records], …] to standard output.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from edl_allreduce import flags
from edl_allreduce.contracts.arguments import takes
from edl_allreduce.contracts.resolve import find_definition
from edl_allreduce.contracts.user_errors import user_code
from edl_allreduce.errors import EdlError, ModelError
from edl_allreduce.records import custom
from edl_allreduce.spec import ModelSpec

NAME = "custom_data_reader"


def make_reader(model: ModelSpec, origin: str, records_per_task: int) -> Any:
    """The reader that the model's `custom_data_reader` makes for a data origin.

    Raises:
        ModelError: there is none, or the user's code fails.
    """
    definition = find_definition(model)
    maker = getattr(definition.module, NAME, None)
    if maker is None:
        raise ModelError(f"{definition.file} has no {NAME}; --data_format=custom needs it")
    given = {**model.values, "data_origin": origin, "records_per_task": records_per_task}
    with user_code(model.model_zoo, NAME):
        reader = maker(**takes(maker).chosen(given))
    for method in ("create_shards", "read_records"):
        if not callable(getattr(reader, method, None)):
            raise ModelError(f"{definition.file}: {NAME} made a {type(reader).__name__} without {method}()")
    return reader


def main() -> int:
    """The exit code: 0, or the error's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    asked = json.load(sys.stdin)
    output, sys.stdout = sys.stdout, sys.stderr  # what the user's code prints is no answer
    try:
        model = flags.from_json(ModelSpec, asked["model"], "model")
        reader = make_reader(model, asked["data"], asked["records_per_task"])
        with user_code(model.model_zoo, "create_shards"):
            print(json.dumps(list(custom.shards(reader))), file=output)
    except EdlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
