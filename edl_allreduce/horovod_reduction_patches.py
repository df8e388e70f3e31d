"""What is changed in how Horovod reduces: on a CPU nothing is copied that need not be, and what failed is told."""

from __future__ import annotations

from edl_allreduce.horovod_patch import Patch

TENSORFLOW_OPS = "horovod/tensorflow/mpi_ops.cc"
GLOO_PAIR = "third_party/gloo/gloo/transport/tcp/pair.cc"

PATCHES = (
    Patch(
        TENSORFLOW_OPS,
        "class HorovodAllreduceOp : public AsyncOpKernel {\n",
        """\
// On a CPU a tensor that nobody else needs is reduced in its place.
Status AllocateOrForward(OpKernelContext* context, int device, int i,
                         Tensor** output) {
  auto shape = context->input(i).shape();
  if (device == CPU_DEVICE_ID) {
    return context->forward_input_or_allocate_output({i}, i, shape, output);
  }
  return context->allocate_output(i, shape, output);
}

class HorovodAllreduceOp : public AsyncOpKernel {
""",
        "a gradient is needed by its reduction only: with a tensor of its own the result costs memory, whose pages are "
        "new each time, and a copy",
    ),
    Patch(
        TENSORFLOW_OPS,
        """\
    auto tensor = context->input(0);
    horovod::common::ReduceOp reduce_op =""",
        """\
    horovod::common::ReduceOp reduce_op =""",
        "a tensor that is held here would not be given away",
    ),
    Patch(
        TENSORFLOW_OPS,
        """\
    Tensor* output;
    OP_REQUIRES_OK_ASYNC(
        context, context->allocate_output(0, tensor.shape(), &output), done);
""",
        """\
    Tensor* output;
    OP_REQUIRES_OK_ASYNC(
        context, AllocateOrForward(context, device, 0, &output), done);
    auto tensor = context->input(0);
""",
        "one tensor is reduced in its place",
    ),
    Patch(
        TENSORFLOW_OPS,
        """\
      auto tensor = context->input(i);
      OP_REQUIRES_OK_ASYNC(
          context, context->allocate_output(i, tensor.shape(), &outputs[i]),
          done);
""",
        """\
      OP_REQUIRES_OK_ASYNC(
          context, AllocateOrForward(context, device, i, &outputs[i]), done);
""",
        "a group is reduced in its place",
    ),
    Patch(
        TENSORFLOW_OPS,
        """\
            // Must only invoke callback on last tensor.
            std::lock_guard<std::mutex> guard(*callback_mutex);
            (*callback_count)++;
""",
        """\
            // Must only invoke callback on last tensor.
            std::lock_guard<std::mutex> guard(*callback_mutex);
            (*callback_count)++;
            if (!status.ok()) {
              context->SetStatus(ConvertStatus(status));
            }
""",
        "a group that is reduced in several parts fails when any of them did, not only the last",
    ),
    Patch(
        "horovod/common/ops/gloo_operations.cc",
        """\
    std::memcpy(buffer_data, first_entry.tensor->data(),
                (size_t)first_entry.tensor->size());
""",
        """\
    if (buffer_data != first_entry.tensor->data()) {
      std::memcpy(buffer_data, first_entry.tensor->data(),
                  (size_t)first_entry.tensor->size());
    }
""",
        "a tensor that is reduced in its place needs no copy",
    ),
    Patch(
        "horovod/common/parameter_manager.cc",
        """\
    fixed_values_[variable] = value;
    ResetBayes();
  } else {
""",
        """\
    fixed_values_[variable] = value;
    ResetBayes();
  } else if (fixed_values_.find(variable) == fixed_values_.end()) {
""",
        "with cycle time and fusion threshold both given, initializing a second time wrote into an empty vector",
    ),
    Patch(
        GLOO_PAIR,
        """\
  std::unique_lock<std::mutex> lock(m_, std::try_to_lock);
  if (!lock) {
    return;
  }

  // State must be <= CONNECTED.
""",
        """\
  std::unique_lock<std::mutex> lock(m_, std::try_to_lock);
  thread_local int missed = 0;
  if (!lock) {
    if (++missed < 16) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    return;
  }
  missed = 0;

  // State must be <= CONNECTED.
""",
        "while one thread sends, which is most of the time, the other asked all the time whether it might receive: a "
        "whole core; 64 MB take two thirds of the time without that",
    ),
    Patch(
        GLOO_PAIR,
        "#include <sstream>\n",
        "#include <chrono>\n#include <sstream>\n#include <thread>\n",
        "for that pause",
    ),
)
