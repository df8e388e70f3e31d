"""What Prometheus is told; docs/dashboard.md lists the names, docs/grafana-dashboard.json shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import edl_allreduce
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.task_spec import kind_of
from rendezvous.activity import NAMES
from rendezvous.dashboard.job_view import JobView

__all__ = ["CONTENT_TYPE_LATEST", "exposition"]

PHASES = ("starting", "training", "reforming", "working", "exporting", "stopping", "done", "failed", "stopped")
JOB = "job_name"  # a label of every metric; `job` is Prometheus' own

Values = Mapping[str, float]  # by the value of the metric's other label


def exposition(view: JobView) -> bytes:
    """All metrics of a job at this moment, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(view))
    return generate_latest(registry)


class _Metrics(Collector):
    def __init__(self, view: JobView) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """Every metric."""
        status, view = self._view.status(), self._view
        info = InfoMetricFamily("edl_job", "What the job is", labels=[JOB])
        info.add_metric([view.name], {"kind": kind_of(view.spec), "version": edl_allreduce.__version__})
        yield info
        yield from self._job(status)
        if status.job == "train":
            yield from self._training(status)
        if status.HasField("work"):
            yield self._tasks(status.work)
        yield from self._workers(status)

    def _job(self, status: pb.Status) -> Iterator[Metric]:
        phases = {each: float(each == status.phase) for each in PHASES}
        yield self._gauge("edl_phase", "1 for the phase the job is in", phases, "phase")
        yield self._gauge("edl_records_per_second", "Records that all workers use, over the last seconds", rate(status))
        yield self._gauge("edl_remaining_seconds", "Estimate of the time to the end; 0: not known", status.seconds_left)
        yield self._gauge("edl_workers_wanted", "Workers that should be alive", status.target_workers)
        yield self._counter("edl_coordinator_restarts", "Coordinators that took over", status.coordinator_restarts)

    def _training(self, status: pb.Status) -> Iterator[Metric]:
        told, position = status.goodput, status.position
        yield self._gauge("edl_step", "Optimizer steps that are applied", position.step)
        yield self._gauge("edl_steps_planned", "Steps of the whole training; 0: not known", status.total_steps)
        yield self._gauge("edl_epoch", "Epoch in progress, the first is 0", position.epoch)
        yield self._gauge("edl_loss", "Mean loss over the records of the newest step", status.loss)
        computed = told.records + told.repeated_records
        yield self._counter("edl_records_computed", "Records computed, repeated ones included", computed)
        yield self._counter("edl_records_repeated", "Records computed once more", told.repeated_records)
        yield self._counter("edl_records_skipped", "Bad records left out", status.skipped_records)
        yield self._counter("edl_training_seconds", "Time since the first round began", told.wall_seconds)
        yield self._gauge("edl_useful_seconds", "Time of the steps that count", told.useful_seconds)
        good = told.useful_seconds / told.wall_seconds if told.wall_seconds else 0.0
        yield self._gauge("edl_goodput_ratio", "Useful time by all time since the first round began", good)
        lost = {each.kind: each for each in told.lost}
        seconds = {key: each.seconds for key, each in lost.items()}
        yield self._counter("edl_paused_seconds", "Time in which nobody was stepping", seconds, "cause")
        pauses = {key: each.rounds for key, each in lost.items()}
        yield self._counter("edl_pauses", "How often nobody was stepping", pauses, "cause")
        yield self._gauge("edl_checkpoint_step", "Step of the newest complete checkpoint", status.checkpoint.step)
        yield self._gauge("edl_checkpoint_failing", "1 when the last try failed", bool(status.checkpoint_error))
        samples = {name: float(self._view.record.activities.column(name).sum()) for name in NAMES}
        yield self._counter("edl_activity_samples", "Heartbeats by what the worker was doing", samples, "activity")
        if newest := (status.epochs or status.evaluations):
            figures = dict(sorted(newest[-1].values.items()))
            yield self._gauge("edl_figure", "Newest loss and metrics of an epoch or evaluation", figures, "figure")

    def _tasks(self, work: pb.Work) -> Metric:
        todo = work.tasks - work.tasks_done - work.tasks_leased
        tasks = {"done": work.tasks_done, "doing": work.tasks_leased, "todo": max(0, todo)}
        return self._gauge("edl_tasks", "Tasks of the newest piece of leased work", tasks, "state")

    def _workers(self, status: pb.Status) -> Iterator[Metric]:
        states: dict[str, float] = {}
        for each in status.workers:
            states[each.state] = states.get(each.state, 0) + 1
        yield self._gauge("edl_workers", "Workers by what they are doing", states, "state")
        heard = {str(each.id): each.heartbeat_seconds for each in status.workers if each.pid}
        yield self._gauge("edl_worker_heartbeat_age_seconds", "Since a worker was last heard", heard, "worker")
        own = {str(each.id): each.compute_seconds for each in status.workers if each.compute_seconds}
        yield self._gauge("edl_worker_compute_seconds", "A worker's own part of a step", own, "worker")
        memory = {str(each.id): float(each.memory_bytes) for each in status.workers if each.memory_bytes}
        yield self._gauge("edl_worker_memory_bytes", "Resident memory of a worker", memory, "worker")

    def _gauge(self, name: str, help: str, values: float | Values, label: str = "") -> Metric:
        return self._filled(GaugeMetricFamily(name, help, labels=[JOB, *filter(None, [label])]), values)

    def _counter(self, name: str, help: str, values: float | Values, label: str = "") -> Metric:
        return self._filled(CounterMetricFamily(name, help, labels=[JOB, *filter(None, [label])]), values)

    def _filled(self, family: GaugeMetricFamily | CounterMetricFamily, values: float | Values) -> Metric:
        if isinstance(values, Mapping):
            for key, value in values.items():
                family.add_metric([self._view.name, key], value)
        else:
            family.add_metric([self._view.name], values)
        return family


def rate(status: pb.Status) -> float:
    """0 as soon as the job has ended."""
    return 0.0 if status.phase in ("done", "failed", "stopped") else status.records_per_second
