"""What is changed in when Horovod's background thread works: when there is something to do, instead of all the time.

Horovod 0.28.1 wakes every HOROVOD_CYCLE_TIME and asks all members what is ready. So what is ready waits for half of that
time, and a core is asked for nothing a thousand times a second. Here a group (which is complete), a tensor that fills the
fusion buffer by itself, and what is never fused begin a cycle at once; only a single small tensor waits for others, as
before. With nothing to do, ten cycles' time is slept: members that have something to do wait for those that do not yet,
inside the exchange of what is ready, which costs nothing.
"""

from __future__ import annotations

from edl_allreduce.horovod_patch import Patch

OPERATIONS = "horovod/common/operations.cc"
QUEUE = "horovod/common/tensor_queue.cc"
QUEUE_HEADER = "horovod/common/tensor_queue.h"

PATCHES = (
    Patch(
        QUEUE_HEADER,
        "#include <iostream>\n#include <mutex>\n",
        "#include <chrono>\n#include <condition_variable>\n#include <iostream>\n#include <limits>\n#include <mutex>\n",
        "for the alarm",
    ),
    Patch(
        QUEUE_HEADER,
        "class TensorQueue {\n",
        """\
// Lets the background thread sleep while there is nothing to do.
class CycleAlarm {
public:
  using Duration = std::chrono::steady_clock::duration;

  // Something is to do, at once.
  void Ring();

  // A tensor is to be reduced or gathered. What has no room for another one in
  // the fusion buffer is done at once; else there is a cycle's time for more.
  void RingFusible(int64_t bytes);

  // Returns when the next cycle is due; with nothing to do, after `idle`.
  void Wait(Duration cycle, Duration idle, int64_t fusion_bytes);

private:
  std::mutex mutex_;
  std::condition_variable rung_;
  bool any_ = false;
  bool at_once_ = false;
  std::chrono::steady_clock::time_point since_;
  int64_t fusion_bytes_ = std::numeric_limits<int64_t>::max();

  void Note(bool at_once);
};

extern CycleAlarm cycle_alarm;

class TensorQueue {
""",
        "says when the next cycle is due",
    ),
    Patch(
        QUEUE_HEADER,
        "  void PopMessagesFromQueue(",
        "  bool IsEmpty() const;\n\n  void PopMessagesFromQueue(",
        "whether something waits for other members",
    ),
    Patch(
        QUEUE,
        "// Add a TensorTableEntry as well as its message to the queue.\n",
        """\
CycleAlarm cycle_alarm;

void CycleAlarm::Ring() {
  std::lock_guard<std::mutex> guard(mutex_);
  Note(true);
}

void CycleAlarm::RingFusible(int64_t bytes) {
  std::lock_guard<std::mutex> guard(mutex_);
  Note(bytes >= fusion_bytes_);
}

void CycleAlarm::Note(bool at_once) {
  if (!any_) {
    any_ = true;
    since_ = std::chrono::steady_clock::now();
  }
  at_once_ = at_once_ || at_once;
  rung_.notify_one();
}

void CycleAlarm::Wait(Duration cycle, Duration idle, int64_t fusion_bytes) {
  std::unique_lock<std::mutex> lock(mutex_);
  fusion_bytes_ = fusion_bytes;
  if (rung_.wait_for(lock, idle, [this] { return any_; })) {
    rung_.wait_until(lock, since_ + cycle, [this] { return at_once_; });
  }
  any_ = at_once_ = false;
}

bool TensorQueue::IsEmpty() const {
  std::lock_guard<std::mutex> guard(mutex_);
  return tensor_table_.empty();
}

// Add a TensorTableEntry as well as its message to the queue.
""",
        "the alarm",
    ),
    Patch(
        QUEUE,
        """\
  message_queue_.push(std::move(message));
  return Status::OK();
""",
        """\
  message_queue_.push(std::move(message));
  cycle_alarm.Ring();
  return Status::OK();
""",
        "broadcasts, barriers and the like are never fused: nothing is to be waited for",
    ),
    Patch(
        QUEUE,
        """\
  std::lock_guard<std::mutex> guard(mutex_);

  for (std::size_t i = 0; i < entries.size(); ++i) {
""",
        """\
  std::lock_guard<std::mutex> guard(mutex_);
  int64_t bytes = entries.size() == 1 ? entries[0].tensor->size() : 0;

  for (std::size_t i = 0; i < entries.size(); ++i) {
""",
        "how large a single tensor is",
    ),
    Patch(
        QUEUE,
        """\
    message_queue_.push(std::move(messages[i]));
  }
  return Status::OK();
""",
        """\
    message_queue_.push(std::move(messages[i]));
  }
  if (entries.size() == 1) {
    cycle_alarm.RingFusible(bytes);
  } else {
    cycle_alarm.Ring();
  }
  return Status::OK();
""",
        "a group is complete; a single tensor may be the first of several",
    ),
    Patch(
        "horovod/common/global_state.h",
        """\
  // Time point when last cycle started.
  std::chrono::steady_clock::time_point last_cycle_start;
""",
        """\
  // Whether this process waits for others to be ready as well.
  bool outstanding = false;
""",
        "what is outstanding is asked for more often than nothing at all",
    ),
    Patch(
        OPERATIONS,
        """\
  auto start_time = std::chrono::steady_clock::now();
  auto sleep_duration = state.last_cycle_start +
                        std::chrono::microseconds(long(
                            state.parameter_manager.CycleTimeMs() * 1000.)) -
                        start_time;
  if (sleep_duration > std::chrono::steady_clock::duration::zero()) {
    std::this_thread::sleep_for(sleep_duration);
  }
  state.last_cycle_start = std::chrono::steady_clock::now();
""",
        """\
  auto cycle = std::chrono::microseconds(
      long(state.parameter_manager.CycleTimeMs() * 1000.));
  cycle_alarm.Wait(cycle, state.outstanding ? cycle : 10 * cycle,
                   state.parameter_manager.TensorFusionThresholdBytes());
""",
        "a cycle begins when there is something to do",
    ),
    Patch(
        OPERATIONS,
        "  bool should_shutdown = false;\n",
        "  bool should_shutdown = false;\n  state.outstanding = false;\n",
        "of this cycle",
    ),
    Patch(
        OPERATIONS,
        "    should_shutdown |= response_list.shutdown();\n",
        """\
    should_shutdown |= response_list.shutdown();
    state.outstanding |= !process_set.tensor_queue.IsEmpty();
""",
        "of this cycle",
    ),
    Patch(
        OPERATIONS,
        "    horovod_global.shut_down = true;\n    horovod_global.background_thread.join();\n",
        "    horovod_global.shut_down = true;\n    cycle_alarm.Ring();\n    horovod_global.background_thread.join();\n",
        "a thread that sleeps is told that it is to end",
    ),
)
