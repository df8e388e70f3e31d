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
    horovod::common::ReduceOp reduce_op = static_cast<horovod::common::ReduceOp>(reduce_op_);
    Tensor* output;
    OP_REQUIRES_OK_ASYNC(
        context, context->allocate_output(0, tensor.shape(), &output), done);
    // ReadyEvent makes sure input tensor is ready, and output is allocated.
    common::ReadyEventList ready_event_list;
#if HAVE_GPU
    ready_event_list.AddReadyEvent(std::shared_ptr<common::ReadyEvent>(RecordReadyEvent(context)));
#endif
    auto hvd_context = std::make_shared<TFOpContext>(context);
    auto hvd_tensor = std::make_shared<TFTensor>(tensor);
    auto hvd_output = std::make_shared<TFTensor>(*output);
    auto enqueue_result = EnqueueTensorAllreduce(
""",
        """\
    horovod::common::ReduceOp reduce_op = static_cast<horovod::common::ReduceOp>(reduce_op_);
    Tensor* output;
    OP_REQUIRES_OK_ASYNC(
        context, AllocateOrForward(context, device, 0, &output), done);
    auto tensor = context->input(0);
    // ReadyEvent makes sure input tensor is ready, and output is allocated.
    common::ReadyEventList ready_event_list;
#if HAVE_GPU
    ready_event_list.AddReadyEvent(std::shared_ptr<common::ReadyEvent>(RecordReadyEvent(context)));
#endif
    auto hvd_context = std::make_shared<TFOpContext>(context);
    auto hvd_tensor = std::make_shared<TFTensor>(tensor);
    auto hvd_output = std::make_shared<TFTensor>(*output);
    auto enqueue_result = EnqueueTensorAllreduce(
""",
        "the same; a tensor that is held here would not be given away",
    ),
    Patch(
        TENSORFLOW_OPS,
        """\
    for (int i = 0; i < num_tensors_; ++i) {
      auto tensor = context->input(i);
      OP_REQUIRES_OK_ASYNC(
          context, context->allocate_output(i, tensor.shape(), &outputs[i]),
          done);
    }

    // ReadyEvent makes sure input tensors are ready, and outputs are allocated.
    common::ReadyEventList ready_event_list;
#if HAVE_GPU
    ready_event_list.AddReadyEvent(std::shared_ptr<common::ReadyEvent>(RecordReadyEvent(context)));
#endif

    for (int i = 0; i < num_tensors_; ++i) {
      auto tensor = context->input(i);
      ready_event_lists.emplace_back(ready_event_list); // Same for all tensors in group
      hvd_contexts.emplace_back(std::make_shared<TFOpContext>(context));
      hvd_tensors.emplace_back(std::make_shared<TFTensor>(tensor));
      names.emplace_back(node_name + "_" + std::to_string(i + 1) + "of" +
                         std::to_string(num_tensors));
      hvd_outputs.emplace_back(std::make_shared<TFTensor>(*outputs[i]));
      callbacks.emplace_back(
          [context, done, callback_mutex, callback_count, num_tensors]
          (const common::Status& status) {
            // Must only invoke callback on last tensor.
            std::lock_guard<std::mutex> guard(*callback_mutex);
            (*callback_count)++;
            if (*callback_count == num_tensors) {
""",
        """\
    for (int i = 0; i < num_tensors_; ++i) {
      OP_REQUIRES_OK_ASYNC(
          context, AllocateOrForward(context, device, i, &outputs[i]), done);
    }

    // ReadyEvent makes sure input tensors are ready, and outputs are allocated.
    common::ReadyEventList ready_event_list;
#if HAVE_GPU
    ready_event_list.AddReadyEvent(std::shared_ptr<common::ReadyEvent>(RecordReadyEvent(context)));
#endif

    for (int i = 0; i < num_tensors_; ++i) {
      auto tensor = context->input(i);
      ready_event_lists.emplace_back(ready_event_list); // Same for all tensors in group
      hvd_contexts.emplace_back(std::make_shared<TFOpContext>(context));
      hvd_tensors.emplace_back(std::make_shared<TFTensor>(tensor));
      names.emplace_back(node_name + "_" + std::to_string(i + 1) + "of" +
                         std::to_string(num_tensors));
      hvd_outputs.emplace_back(std::make_shared<TFTensor>(*outputs[i]));
      callbacks.emplace_back(
          [context, done, callback_mutex, callback_count, num_tensors]
          (const common::Status& status) {
            // Must only invoke callback on last tensor.
            std::lock_guard<std::mutex> guard(*callback_mutex);
            (*callback_count)++;
            if (!status.ok()) {
              context->SetStatus(ConvertStatus(status));
            }
            if (*callback_count == num_tensors) {
""",
        "the same for groups; a group that is reduced in several parts fails when any of them did, not only the last",
    ),
    Patch(
        "horovod/common/ops/gloo_operations.cc",
        """\
    buffer_data = (void*)first_entry.output->data();
    std::memcpy(buffer_data, first_entry.tensor->data(),
                (size_t)first_entry.tensor->size());
    fused_input_data = buffer_data;
  }

  if (prescale_factor != 1.0) {
    // Execute prescaling op
    ScaleBuffer(prescale_factor, entries, fused_input_data, buffer_data, num_elements);
  }

  // Do allreduce.
""",
        """\
    buffer_data = (void*)first_entry.output->data();
    if (buffer_data != first_entry.tensor->data()) {
      std::memcpy(buffer_data, first_entry.tensor->data(),
                  (size_t)first_entry.tensor->size());
    }
    fused_input_data = buffer_data;
  }

  if (prescale_factor != 1.0) {
    // Execute prescaling op
    ScaleBuffer(prescale_factor, entries, fused_input_data, buffer_data, num_elements);
  }

  // Do allreduce.
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
