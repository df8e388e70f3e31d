"""Models that train out of the box on real data; each file says what it is, where it comes from and how to run it."""

import os
import sys

if sys.argv[:1] == ["-m"]:  # `python -m model_zoo.…` is being found: TensorFlow shall not remark on the processor
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
