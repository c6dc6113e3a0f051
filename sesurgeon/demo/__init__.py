"""The whole road on real data: from a trained network to a verified ONNX file."""

from sesurgeon.demo.commands import by_hand
from sesurgeon.demo.events import BaseEpoch, DemoEvent, StepFinished, StepStarted
from sesurgeon.demo.run import DemoResult, run_demo
from sesurgeon.demo.settings import DemoSettings

__all__ = [
    "BaseEpoch",
    "DemoEvent",
    "DemoResult",
    "DemoSettings",
    "StepFinished",
    "StepStarted",
    "by_hand",
    "run_demo",
]
