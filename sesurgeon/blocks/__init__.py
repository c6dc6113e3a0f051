"""What is inserted: Squeeze-and-Excitation, its gates, its identity initialisation."""

from sesurgeon.blocks.build import build_block
from sesurgeon.blocks.config import BlockConfig
from sesurgeon.blocks.gates import TwiceSigmoid
from sesurgeon.blocks.se import SqueezeExcite

__all__ = ["BlockConfig", "SqueezeExcite", "TwiceSigmoid", "build_block"]
