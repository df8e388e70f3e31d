"""ElasticDL's iris with a data reader of its own: `--data=iris:2` is the table, twice; each class is a shard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edl_allreduce.tf_example import example_bytes
from model_zoo.elasticdl_iris import custom_model, eval_metrics_fn, feed, loss, optimizer

__all__ = ["custom_data_reader", "custom_model", "eval_metrics_fn", "feed", "loss", "optimizer"]


class Reader:
    """As ElasticDL's AbstractDataReader."""

    def __init__(self, times: int) -> None:
        from sklearn.datasets import load_iris

        self.table, self.times = load_iris(), times

    def create_shards(self) -> dict[str, tuple[int, int]]:
        return dict.fromkeys(self.table.target_names, (0, 50 * self.times))

    def read_records(self, task: Any) -> Iterator[bytes]:
        shard = list(self.table.target_names).index(task.shard_name)
        for number in range(task.start, task.end):
            row = 50 * shard + number % 50
            yield example_bytes(
                {"features": self.table.data[row].astype("float32"), "label": [int(self.table.target[row])]}
            )


def custom_data_reader(data_origin: str, records_per_task: int | None = None, **_: Any) -> Reader:
    return Reader(int(data_origin.partition(":")[2]))
