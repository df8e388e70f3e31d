"""What members tell each other along with a step: a learning rate, a stop; and what a step must refuse or survive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")

import keras
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from edl_allreduce.contracts.base import Metric
from edl_allreduce.errors import ModelError
from edl_allreduce.spec import TrainingSpec
from edl_allreduce.worker import collectives
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.step import SMALLEST_RATE, TrainStep
from edl_allreduce.worker.trying import losses_that_are_sums, metrics_that_add_up
from edl_allreduce.worker.weighting import weighted
from tests import step_cases
from tests.step_cases import CASES, STEPS


@pytest.fixture(scope="module", autouse=True)
def ring() -> Iterator[Ring]:
    ring = Ring("127.0.0.1", spared=0)
    ring.join()
    yield ring
    ring.leave()


def test_a_rate_that_is_sent_is_applied_and_a_stop_applies_nothing() -> None:
    found = step_cases.steered()
    assert found["stopped"].tolist() == [False] * (len(STEPS) - 1) + [True]
    assert found["changed"].tolist() == [True] * (len(STEPS) - 1) + [False]
    assert found["rate"] == 0.5
    keras.utils.set_random_seed(3)
    case = CASES["class_weight"]
    model, data = case.model(), case.data()
    model.compile(optimizer=case.optimizer(), loss=case.loss, jit_compile=False)
    for number, batch in enumerate(data[:-1]):
        if number == 1:
            model.optimizer.learning_rate = 0.5
        model.train_on_batch(*batch)
    for i, variable in enumerate(model.variables):
        np.testing.assert_allclose(found[f"variable_{i}"], variable.numpy(), rtol=1e-5, atol=1e-6)


def made(name: str, **changes: Any) -> tuple[TrainStep, list[tuple[Any, ...]]]:
    case = CASES[name]
    data = case.data()
    training = step_cases.training_of(case, data)
    options: dict[str, Any] = {"metrics": training.metrics, "spec": case.spec}
    options |= {key: changes.pop(key) for key in ("spec", "steered") if key in changes}
    step = TrainStep(replace(training, **changes), **options)
    return step, [tf.nest.map_structure(tf.constant, batch) for batch in data]


def test_a_schedule_cannot_be_steered() -> None:
    step, data = made("clipped_schedule", steered=True)
    step.train(*data[0], part=False, learning_rate=3.0)
    assert step.learning_rate() == pytest.approx(0.05)


def test_a_rate_of_zero_can_be_sent() -> None:
    step, data = made("weights", steered=True)
    before = [variable.numpy() for variable in step.variables[:4]]
    step.train(*data[0], part=False, learning_rate=SMALLEST_RATE)
    for variable, value in zip(step.variables, before, strict=False):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert step.learning_rate() == pytest.approx(0.0)


def test_a_step_that_is_not_steered_says_so() -> None:
    step, data = made("weights")
    with pytest.raises(ValueError, match="not made to be steered"):
        step.train(*data[0], part=False, stop=True)


def test_the_rate_of_a_step_is_told() -> None:
    step, data = made("frozen_and_warmed_up")
    rates = []
    for batch in data:
        rates.append(step.learning_rate())
        step.train(*batch, part=False)
    assert rates == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.02])


def test_a_step_that_all_are_idle_in_changes_nothing() -> None:
    step, data = made("additional_losses")
    step.train(*data[0], part=False)
    before = [variable.numpy() for variable in step.variables]
    outcome = step.idle(part=True)
    assert (outcome.records, outcome.loss, outcome.part) == (0, 0.0, True)
    for variable, value in zip(step.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize("name", ["weights", "class_weight", "pieces"])
def test_records_can_be_tried_alone(name: str) -> None:
    step, data = made(name)
    alone = step.alone(*data[0]).numpy()
    assert step.train(*data[0], part=False).loss == pytest.approx(alone / STEPS[0], rel=1e-5)


class Checks(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        tf.debugging.assert_less(tf.reduce_max(inputs), 100.0)
        return inputs


def checked() -> keras.Model:
    inputs = keras.Input([step_cases.FEATURES])
    return keras.Model(inputs, keras.layers.Dense(1)(Checks()(inputs)))


def test_an_assertion_in_a_piece_stops_the_step() -> None:
    step, data = made("global_clipnorm", model=checked(), spec=TrainingSpec(max_local_batch=5))
    features, labels = data[0]
    before = [variable.numpy() for variable in step.variables]
    bad = tf.tensor_scatter_nd_update(features, [[8, 0]], [1000.0])
    for _ in range(5):
        with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
            step.train(bad, labels, part=False)
    for variable, value in zip(step.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert step.train(features, labels, part=False).records == STEPS[0]


def test_dropout_goes_on_from_piece_to_piece() -> None:
    inputs = keras.Input([step_cases.FEATURES])
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.5, seed=1)(inputs)))
    step, data = made("global_clipnorm", model=model, spec=TrainingSpec(max_local_batch=5))
    (seed,) = step.seed_variables
    before = seed.numpy()
    step.train(*data[0], part=False)
    assert seed.numpy()[1] == before[1] + 3  # pieces of 5, 5 and 2 records


def test_class_weights_do_not_go_with_weights_or_with_several_labels() -> None:
    with pytest.raises(ModelError, match="--class_weight: the input function gives a weight for every example"):
        made("weights", spec=TrainingSpec(class_weight="{0: 2.0}"))
    with pytest.raises(ModelError, match="--class_weight: works for one output only"):
        made("several", spec=TrainingSpec(class_weight="{0: 2.0}"))


@pytest.mark.parametrize("labels", [[0, 2, 5], [[0], [2], [5]], [[0.0], [2.0], [5.0]], np.eye(6)[[0, 2, 5]]], ids=repr)
def test_class_weights_of_every_kind_of_labels(labels: Any) -> None:
    _, _, weights = weighted((tf.zeros([3, 1]), tf.constant(labels)), {0: 0.5, 2: 3.0})
    np.testing.assert_array_equal(weights, [0.5, 3.0, 1.0])


def test_what_is_no_sum_is_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    def worst(labels: Any, outputs: Any) -> Any:
        return keras.ops.max(keras.ops.abs(labels - outputs))

    case = CASES["weights"]
    data = case.data()
    training = step_cases.training_of(case, data)
    training.build()
    own = Metric("worst", keras.metrics.MeanMetricWrapper(worst, name="worst"))
    training = replace(training, metrics=(*training.metrics, own))
    sample = tuple(tf.constant(each) for each in data[0])
    assert metrics_that_add_up(training, sample) == list(training.metrics[:-1])
    assert "cannot be added up over workers: worst" in caplog.text


def test_additional_losses_are_told_apart() -> None:
    case = CASES["additional_losses"]
    data = case.data()
    training = step_cases.training_of(case, data)
    training.build()
    summed = float(tf.reduce_sum(tf.abs(training.model.layers[1](data[0][0]))))
    losses = training.model.stateless_call(
        training.model.trainable_variables, training.model.non_trainable_variables, data[0][0], return_losses=True
    )[2]
    sums = losses_that_are_sums(training, data[0])
    doubled = [i for i, each in enumerate(losses) if abs(float(each) - 0.01 * summed) < 1e-5]
    assert len(losses) == 4 and sums == set(doubled) and len(doubled) == 1


@pytest.mark.parametrize(
    "spec", [TrainingSpec(), TrainingSpec(gradient_compression="fp16", jit_compile=True)], ids=repr
)
def test_no_step_is_whole_on_any_member_before_all_is_computed(spec: TrainingSpec) -> None:
    steered, data = made("embedding", spec=spec, steered=True)
    operations = steered.graphs[0].get_operations()
    own_part = {each.name for each in operations if each.type == "Timestamp"}
    found = [each for each in operations if is_collective(each)]
    assert len(found) == (4 if spec.gradient_compression == "fp16" else 3) and len(own_part) == 1
    for each in found[-3:]:  # with 16 bits, the loss and the counts may travel before
        assert own_part <= ancestors(each)
    assert [steered.train(*batch, part=False).records for batch in data] == list(STEPS)
    before = [variable.numpy() for variable in steered.variables]
    steered.idle(part=False)
    for variable, value in zip(steered.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_what_is_computed_travels_while_the_rest_is_still_being_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    keras.utils.set_random_seed(0)
    whole, data = made("global_clipnorm")
    keras.utils.set_random_seed(0)
    monkeypatch.setattr(collectives, "BUCKET_BYTES", 1)
    in_buckets, _ = made("global_clipnorm")
    operations = in_buckets.graphs[0].get_operations()
    own_part = {each.name for each in operations if each.type == "Timestamp"}
    *early, last = (each for each in operations if is_collective(each))
    assert len(early) > 3 and own_part <= ancestors(last)
    assert not any(own_part & ancestors(each) for each in early)
    for batch in data:
        assert in_buckets.train(*batch, part=False).loss == whole.train(*batch, part=False).loss
    for one, other in zip(in_buckets.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_an_assertion_in_the_forward_pass_comes_before_all_that_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    def checked(labels: Any, outputs: Any) -> Any:
        tf.debugging.assert_greater(tf.reduce_sum(labels), -1e9, name="no_wild_labels")  # does not feed the loss
        return keras.losses.mean_squared_error(labels, outputs)

    monkeypatch.setattr(collectives, "BUCKET_BYTES", 1)
    checking, _ = made("global_clipnorm", loss=checked)
    found = [each for each in checking.graphs[0].get_operations() if is_collective(each)]
    assert len(found) > 3
    for each in found:
        assert any("no_wild_labels" in name for name in ancestors(each))


@given(
    st.lists(st.tuples(st.sampled_from(["float32", "float16"]), st.integers(0, 300)), max_size=20),
    st.integers(1, 2000),
)
def test_buckets_hold_each_tensor_once_and_no_more_than_needed(tensors: list[tuple[str, int]], limit: int) -> None:
    found = collectives.buckets(tensors, limit)
    assert sorted(i for places in found for i in places) == list(range(len(tensors)))
    sizes = [elements * (4 if dtype == "float32" else 2) for dtype, elements in tensors]
    for places in found:
        assert len({tensors[i][0] for i in places}) == 1
        assert sum(sizes[i] for i in places[:-1]) < limit
        assert places == sorted(places, key=lambda i: (i > 0, -i))
    unfinished = [places for places in found if sum(sizes[i] for i in places) < limit]
    assert len(unfinished) <= len({dtype for dtype, _ in tensors})


def is_collective(operation: Any) -> bool:
    """Whether it depends on there being other members."""
    if not operation.type.endswith("If"):
        return False
    return "HorovodSize" in {each.op.type for each in operation.inputs[0].op.inputs}


def ancestors(operation: Any) -> set[str]:
    """What must have run before it, by name."""
    seen: set[str] = set()
    waiting = [operation]
    while waiting:
        at = waiting.pop()
        if at.name not in seen:
            seen.add(at.name)
            waiting += [*(each.op for each in at.inputs), *at.control_inputs]
    return seen


def test_embeddings_in_pieces_have_dense_gradients() -> None:
    step, data = made("embedding", spec=TrainingSpec(max_local_batch=5))
    assert not step._local.with_slices
    assert [step.train(*batch, part=False).records for batch in data] == list(STEPS)
