"""A model as a SavedModel, for programs that know nothing of ours: from features by name, or records, to outputs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edl_allreduce.contracts.base import TrainingModel
from edl_allreduce.contracts.user_errors import user_code
from edl_allreduce.errors import ModelError

DEFAULT, SERIALIZED = "serving_default", "serving_serialized"


def write_saved_model(training: TrainingModel, model_zoo: str, path: Path) -> tuple[str, ...]:
    """Writes the model as a SavedModel; tells its signatures.

    Args:
        training: the model, loaded for prediction.
        model_zoo: the folder with its code.
        path: a local folder, made here.

    Raises:
        ModelError: TensorFlow cannot save it.
    """
    with user_code(model_zoo, "tracing the model for a SavedModel"):
        module, signatures = signatures_of(training)
    why_not = _save(module, path, signatures)
    notes = [f"{name}: {_told(signature)}" for name, signature in signatures.items()]
    if why_not:  # an input function may use what belongs to no model, such as a lookup table that its file has made
        del module.serve_serialized
        notes[1] = f"without {SERIALIZED}, since the input function cannot be saved: {why_not}"
        why_not = _save(module, path, {DEFAULT: signatures[DEFAULT]})
    if why_not:
        raise ModelError(f"TensorFlow cannot save this model: {why_not}")
    return tuple(notes)


def signatures_of(training: TrainingModel) -> tuple[Any, dict[str, Any]]:
    """What is to be saved (a `tf.Module` with the model), and its signatures, traced."""
    import tensorflow as tf

    model, spec = training.model, training.input.element_spec
    names = input_names(model, spec)

    def serve(**features: Any) -> dict[str, Any]:
        structured = tf.nest.pack_sequence_as(spec, [features[name] for name in names])
        return named_outputs(model, model(structured, training=False))

    def serve_serialized(serialized: Any) -> dict[str, Any]:
        if training.vectorised:
            return named_outputs(model, model(training.parse_batch(serialized), training=False))
        records = tf.data.Dataset.from_tensor_slices(serialized)
        batch = training.batches(records, tf.size(serialized, tf.int64)).get_single_element()
        return named_outputs(model, model(batch, training=False))

    module = tf.Module()
    module.model = model
    module.state = [variable.value for variable in model.variables]
    module.serve = tf.function(serve, autograph=False)
    module.serve_serialized = tf.function(serve_serialized, autograph=False)
    features = zip(names, tf.nest.flatten(spec), strict=True)
    named = {name: tf.TensorSpec(each.shape, each.dtype, name) for name, each in features}
    return module, {
        DEFAULT: module.serve.get_concrete_function(**named),
        SERIALIZED: module.serve_serialized.get_concrete_function(tf.TensorSpec([None], tf.string, "serialized")),
    }


def input_names(model: Any, spec: Any) -> list[str]:
    """A name for each tensor of the features: a dict's keys, a functional model's own names, or "features"."""
    import tensorflow as tf

    count = len(tf.nest.flatten(spec))
    if isinstance(spec, Mapping) and len(spec) == count:
        return _identifiers([str(name) for name in sorted(spec)])
    given = [str(each.name) for each in getattr(model, "inputs", None) or []]
    if len(given) == count and not any(re.fullmatch(r"(input_layer|keras_tensor)(_\d+)?", name) for name in given):
        return _identifiers(given)
    return ["features"] if count == 1 else [f"features_{i}" for i in range(count)]


def named_outputs(model: Any, outputs: Any) -> dict[str, Any]:
    """The outputs by name: a dict's keys, a functional model's names for several outputs, or "outputs"."""
    import tensorflow as tf

    flat = tf.nest.flatten(outputs)
    if isinstance(outputs, Mapping) and len(outputs) == len(flat):
        names = [str(name) for name in sorted(outputs)]
    elif len(flat) == 1:
        names = ["outputs"]
    else:
        names = list(getattr(model, "output_names", None) or ())
        if len(set(names)) != len(flat):
            names = [f"outputs_{i}" for i in range(len(flat))]
    return {name: tf.identity(each) for name, each in zip(_identifiers(names), flat, strict=True)}


def _identifiers(names: Sequence[str]) -> list[str]:
    """Names as a signature can have them: different ones of letters, digits and underscores."""
    plain = [re.sub(r"\W", "_", name) for name in names]
    return [f"{name}_{i}" if plain.count(name) > 1 else name for i, name in enumerate(plain)]


def _save(module: Any, path: Path, signatures: Mapping[str, Any]) -> str:
    """Writes a SavedModel; says why it cannot be written, or nothing."""
    import tensorflow as tf

    try:
        tf.saved_model.save(module, str(path), signatures)
    except OSError:
        raise
    except Exception as error:  # whatever TensorFlow raises about what it cannot track
        shutil.rmtree(path, ignore_errors=True)
        return f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
    return ""


def _told(signature: Any) -> str:
    """`image float32 [n, 8, 8] -> outputs float32 [n, 10]`, names in alphabetical order."""
    positional, named = signature.structured_input_signature
    inputs = {each.name: each for each in positional} | named

    def told(specs: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {specs[name].dtype.name} {_shape(specs[name].shape)}" for name in sorted(specs))

    return f"{told(inputs)} -> {told(signature.structured_outputs)}"


def _shape(shape: Any) -> str:
    sizes = ["?" if size is None else str(size) for size in shape]
    return f"[{', '.join(['n', *sizes[1:]])}]"
