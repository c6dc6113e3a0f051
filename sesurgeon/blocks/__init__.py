"""What is inserted: Squeeze-and-Excitation and its relatives, their gates, their identity initialisation."""

from sesurgeon.blocks.block import Block, Scaling
from sesurgeon.blocks.build import build_block
from sesurgeon.blocks.calibration import UnitSums, is_asleep, standardise_
from sesurgeon.blocks.catalogue import BlockName
from sesurgeon.blocks.config import BlockConfig, Init
from sesurgeon.blocks.gates import GateName, OnePlusTanh, TwiceHardSigmoid, TwiceSigmoid, ceiling_of
from sesurgeon.blocks.kinds.cbam import Cbam
from sesurgeon.blocks.kinds.eca import EfficientChannelAttention
from sesurgeon.blocks.kinds.ese import EffectiveSqueezeExcite
from sesurgeon.blocks.kinds.gc import GlobalContext
from sesurgeon.blocks.kinds.ge import GatherExcite
from sesurgeon.blocks.kinds.se import SqueezeExcite
from sesurgeon.blocks.layout import Layout, Squeeze

__all__ = [
    "Block",
    "BlockConfig",
    "BlockName",
    "Cbam",
    "EffectiveSqueezeExcite",
    "EfficientChannelAttention",
    "GateName",
    "GatherExcite",
    "GlobalContext",
    "Init",
    "Layout",
    "OnePlusTanh",
    "Scaling",
    "Squeeze",
    "SqueezeExcite",
    "TwiceHardSigmoid",
    "TwiceSigmoid",
    "UnitSums",
    "build_block",
    "ceiling_of",
    "is_asleep",
    "standardise_",
]
