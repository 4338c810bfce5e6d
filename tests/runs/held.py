"""A kind of probe that waits while a file named ``hold`` lies beside it: a config includes it."""

import os
import time
from pathlib import Path

import llmprobe
from llmprobe.probing.kinds import ProbeKind

FOLDER = Path(__file__).parent


@llmprobe.probe_kind("held")
class Held(ProbeKind):
    """Logistic regression that can be held up."""

    def problems(self, design, loss, targets, weights):
        while (FOLDER / "hold").exists():
            (FOLDER / f"held-{os.getpid()}").touch()
            time.sleep(0.05)
        return super().problems(design, loss, targets, weights)
