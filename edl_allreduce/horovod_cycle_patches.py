"""What is changed in when Horovod's background thread works: when there is something to do, instead of all the time.

Horovod 0.28.1 wakes every HOROVOD_CYCLE_TIME and asks all members what is ready. So what is ready waits for half of
that time, and a core is asked for nothing a thousand times a second. Here a cycle begins when something is to do. What
is never fused and what fills the fusion buffer begin one at once; a group, which is complete, after a tenth of that
time, since what a step gathers is ready in the same moment; only a single small tensor waits a whole one for others.
With nothing to do, ten times as long is slept: members that have something to do wait for those that do not yet inside
the exchange of what is ready, which costs nothing.
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
        """\
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iostream>
#include <limits>
#include <mutex>
""",
        "for the alarm",
    ),
    Patch(
        QUEUE_HEADER,
        "class TensorQueue {\n",
        """\
// Lets the background thread sleep while there is nothing to do.
class CycleAlarm {
public:
  using Clock = std::chrono::steady_clock;

  // Something is to do, after this part of a cycle's time, in which more may
  // come along.
  void Ring(double part);

  // The same for `tensors` that are to be reduced or gathered together, the
  // first of which has so many bytes.
  void RingFusible(size_t tensors, int64_t bytes);

  // Returns when the next cycle is due; with nothing to do, after `idle`.
  void Wait(Clock::duration cycle, Clock::duration idle, int64_t fusion_bytes);

private:
  std::mutex mutex_;
  std::condition_variable rung_;
  Clock::time_point due_ = Clock::time_point::max();
  Clock::duration cycle_{};
  int64_t fusion_bytes_ = std::numeric_limits<int64_t>::max();

  void Note(double part);
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

void CycleAlarm::Ring(double part) {
  std::lock_guard<std::mutex> guard(mutex_);
  Note(part);
}

void CycleAlarm::RingFusible(size_t tensors, int64_t bytes) {
  std::lock_guard<std::mutex> guard(mutex_);
  Note(tensors > 1 ? 0.1 : bytes < fusion_bytes_ ? 1.0 : 0.0);
}

void CycleAlarm::Note(double part) {
  auto wait = std::chrono::duration_cast<Clock::duration>(part * cycle_);
  if (Clock::now() + wait < due_) {
    due_ = Clock::now() + wait;
    rung_.notify_one();
  }
}

void CycleAlarm::Wait(Clock::duration cycle, Clock::duration idle,
                      int64_t fusion_bytes) {
  std::unique_lock<std::mutex> lock(mutex_);
  cycle_ = cycle;
  fusion_bytes_ = fusion_bytes;
  auto end = Clock::now() + idle;
  while (Clock::now() < std::min(due_, end)) {
    rung_.wait_until(lock, std::min(due_, end));
  }
  due_ = Clock::time_point::max();
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
  cycle_alarm.Ring(0);
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
  int64_t bytes = entries.empty() ? 0 : entries[0].tensor->size();

  for (std::size_t i = 0; i < entries.size(); ++i) {
""",
        "how large it is, if it is a single one",
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
  cycle_alarm.RingFusible(entries.size(), bytes);
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
        """\
    horovod_global.shut_down = true;
    cycle_alarm.Ring(0);
    horovod_global.background_thread.join();
""",
        "a thread that sleeps is told that it is to end",
    ),
)
