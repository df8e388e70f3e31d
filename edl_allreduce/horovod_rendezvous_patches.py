"""What is changed in how Horovod's processes find each other: rings of living processes are made again and again."""

from __future__ import annotations

from edl_allreduce.horovod_patch import Patch

PATCHES = (
    Patch(
        "horovod/common/gloo/http_store.cc",
        "    std::this_thread::sleep_for(std::chrono::milliseconds(10));\n",
        "    std::this_thread::sleep_for(std::chrono::milliseconds(1));\n",
        "members wait for each other's addresses several times while a ring is made; each wait cost 10 ms",
    ),
    Patch(
        "horovod/common/gloo/http_store.h",
        "#define RETRY_WAITING_TIME_MILLSEC 500\n",
        "#define RETRY_WAITING_TIME_MILLSEC 20\n",
        "the store of an abandoned round is closed; waiting members should notice at once, not after 1.5 s",
    ),
)
