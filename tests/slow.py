"""Tests that take half a minute or more and whose subject others touch too."""

import os

import pytest

slow = pytest.mark.skipif(
    os.environ.get("JARVIS_TEST_SLOW") != "1",
    reason="JARVIS_TEST_SLOW=1 is not set: it takes half a minute or more",
)
