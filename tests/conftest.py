"""What every test starts from: a quiet TensorFlow on the CPU and none of the user's own settings."""

from __future__ import annotations

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
for name in [name for name in os.environ if name.startswith(("EDL_", "HOROVOD_"))]:
    del os.environ[name]
