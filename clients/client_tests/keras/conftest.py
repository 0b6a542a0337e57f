"""Where the tests of the Keras client run."""

from __future__ import annotations

import os

# the loader of TensorFlow talks to the terminal otherwise
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
