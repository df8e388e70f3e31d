"""What is changed in Horovod 0.28.1 before it is built, each with its reason; part of the key of a cached wheel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edl_allreduce import (
    horovod_cycle_patches,
    horovod_mesh_patches,
    horovod_reduction_patches,
    horovod_rendezvous_patches,
)
from edl_allreduce.errors import EdlError
from edl_allreduce.horovod_patch import Patch

GLOO_PAIR = "third_party/gloo/gloo/transport/tcp/pair.cc"

PATCHES = (
    Patch(
        "horovod/tensorflow/CMakeLists.txt",
        'list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")\n',
        "",
        "needs headers that TensorFlow no longer ships; serves only allreduce inside XLA clusters",
        to_build=True,
    ),
    Patch(
        "horovod/common/operations.cc",
        """\
    global_gloo_context.Initialize(ParseGlooIface());
  }
  if (state.control_operation == LibType::GLOO) {
    // Initializes global controller
    state.process_set_table.Initialize(global_gloo_context);
  }
""",
        """\
    try {
      global_gloo_context.Initialize(ParseGlooIface());
      if (state.control_operation == LibType::GLOO) {
        // Initializes global controller
        state.process_set_table.Initialize(global_gloo_context);
      }
    } catch (const std::exception& ex) {
      LOG(ERROR) << "Gloo could not be initialized: " << ex.what();
      state.connection_refused =
          std::strstr(ex.what(), std::strerror(ECONNREFUSED)) != nullptr;
      state.process_set_table.Get(0).gloo_context.Finalize();
      global_gloo_context.Finalize();
      state.initialization_failed = true;
      return;
    }
  }
""",
        "a member that dies while a ring is being made would abort the processes of all others",
    ),
    Patch(
        "horovod/common/operations.cc",
        "    horovod_global.initialization_done = false;\n  }\n}\n",
        """\
    horovod_global.initialization_done = false;
    horovod_global.initialization_failed = false;
    horovod_global.connection_refused = false;
  }
}
""",
        "after a failed initialization the next one may succeed",
    ),
    Patch(
        "horovod/common/global_state.h",
        "  std::atomic_bool initialization_failed{false};\n",
        """\
  std::atomic_bool initialization_failed{false};
  std::atomic_bool connection_refused{false};
""",
        "whom a member refuses knows more of what is wrong than the others, whose connections break afterwards",
    ),
    Patch(
        "horovod/common/operations.cc",
        "int horovod_is_initialized() {\n",
        """\
int horovod_connection_refused() {
  return int(horovod_global.connection_refused.load());
}

int horovod_is_initialized() {
""",
        "the same: the ring asks, before it leaves",
    ),
    Patch(
        "horovod/common/operations.cc",
        "#include <atomic>\n#include <cassert>\n",
        "#include <atomic>\n#include <cassert>\n#include <cerrno>\n",
        "the same",
    ),
    *horovod_rendezvous_patches.PATCHES,
    *horovod_mesh_patches.PATCHES,
    *horovod_reduction_patches.PATCHES,
    *horovod_cycle_patches.PATCHES,
    Patch(
        GLOO_PAIR,
        """\
    if (nbytes < 0) {
      return false;
    }
""",
        """\
    if (nbytes < 0) {
      if (rx_.getOpcode() == Op::SEND_UNBOUND_BUFFER) {
        signalException(
            GLOO_ERROR_MSG("The receiving operation is gone ", peer_.str()));
      }
      return false;
    }
""",
        "an operation that failed halfway through a message leaves a pair that never reads again, not even the end of "
        "its connection: the next operation would wait there until its timeout",
    ),
    Patch(
        GLOO_PAIR,
        """\
    if (op.buf != nullptr) {
      op.buf->signalException(ex);
    }
  }

  // Loop through pending send operations.
""",
        """\
    if (op.buf != nullptr) {
      op.buf->signalException(ex);
    }
    NonOwningPtr<UnboundBuffer> buf(op.ubuf);
    if (buf) {
      buf->signalException(ex);
    }
  }

  // The message that is just being received.
  if (rx_.getOpcode() == Op::SEND_UNBOUND_BUFFER) {
    NonOwningPtr<UnboundBuffer> buf(rx_.ubuf);
    if (buf) {
      buf->signalException(ex);
    }
  }

  // Loop through pending send operations.
""",
        "who waits for a message that has been sent or received in part was not told that its connection is broken",
    ),
    Patch(
        "horovod/common/common.h",
        "#include <string>\n",
        "#include <stdexcept>\n#include <string>\n",
        "GCC 14's headers no longer include it by chance",
        to_build=True,
    ),
    Patch(
        "horovod/common/group_table.h",
        "#include <queue>\n",
        "#include <queue>\n#include <string>\n",
        "the same",
        to_build=True,
    ),
    Patch(
        "third_party/flatbuffers/include/flatbuffers/stl_emulation.h",
        "  const size_type count_;\n",
        "  size_type count_;\n",
        "it is assigned to, in a template that nobody uses; GCC 14 looks at those as well",
        to_build=True,
    ),
)
TO_BUILD = tuple(patch for patch in PATCHES if patch.to_build)


def apply(source: Path, patches: Sequence[Patch] = PATCHES) -> None:
    """Changes Horovod's unpacked source in place.

    Raises:
        EdlError: a text to be replaced is not found exactly once: this is not the Horovod it is meant for.
    """
    for patch in patches:
        path = source / patch.file
        text = path.read_text(encoding="utf-8")
        if text.count(patch.old) != 1:
            raise EdlError(f"{path}: this is not Horovod 0.28.1: {patch.old.strip()[:60]!r} is not there exactly once")
        path.write_text(text.replace(patch.old, patch.new), encoding="utf-8")
