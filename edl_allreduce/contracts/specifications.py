"""The classes that ElasticDL's users derive from; light to import, so that a model's file costs nothing to look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from edl_allreduce.contracts.base import Mode


class ElasticDLSpec(ABC):
    """A model and all that is needed to train it, as methods.

    Source: ElasticDL's high-level API, "Model building phase".

    Args:
        context: a dict with what is known of the job, such as worker_id; None today.
        params: those of `--params`.
    """

    def __init__(self, context: dict[str, Any] | None = None, **params: Any) -> None:
        self._context = context

    @abstractmethod
    def create_model(self) -> Any:
        """A `keras.Model`."""

    @abstractmethod
    def create_optimizer(self, lr: float = 0.1) -> Any:
        """A Keras optimizer, or one of the usual ones of `tf.compat.v1.train`."""

    @abstractmethod
    def create_loss(self, outputs: Any = None, labels: Any = None) -> Any:
        """The mean loss of a batch, or one value per example."""

    @abstractmethod
    def create_dataset(self, dataset: Any, mode: Mode) -> Any:
        """A `tf.data.Dataset` of (features, labels), for prediction of features, one for each record of `dataset`."""

    def create_metrics(
        self, mode: Mode = Mode.TRAINING, outputs: Any = None, labels: Any = None, predictions: Any = None
    ) -> dict[str, Any]:
        """Metrics by name: tensors, averaged over all examples, or Keras metrics. None unless it is overridden."""
        return {}


class TrainSpec(ABC):
    """The same as properties; each must be the same object whenever it is asked for. Made with the params."""

    @property
    @abstractmethod
    def model(self) -> Any:
        """A `keras.Model`."""

    @property
    @abstractmethod
    def optimizer(self) -> Any:
        """A Keras optimizer."""

    @property
    @abstractmethod
    def loss(self) -> Any:
        """A Keras loss, or a function of (outputs, labels)."""

    @property
    @abstractmethod
    def metrics(self) -> Any:
        """Metrics by name, or a function as `ElasticDLSpec.create_metrics`."""

    @property
    @abstractmethod
    def dataset(self) -> Any:
        """A function as `ElasticDLSpec.create_dataset`: of (dataset, mode)."""


class BasePredictionOutputsProcessor(ABC):
    """What a model's `PredictionOutputsProcessor` derives from: it gets the predictions instead of files."""

    @abstractmethod
    def process(self, predictions: Any, worker_id: int) -> None:
        """Takes a batch of predictions.

        Args:
            predictions: what the model gives for a batch, as arrays.
            worker_id: of the worker that made them.
        """
