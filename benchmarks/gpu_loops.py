"""The two passes over the tensor on the way back, by Triton: tried against torch's operations by benchmarks/gpu.py.

A tensor is cut into tiles: where channels come first in memory, some rows (one of each image and channel) by some
places; where they come last, some places by some channels of an image.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # elements
CHANNELS = 128  # of a tile where channels come last, at most
PROGRAMS = 2048  # so many keep any GPU busy


def row_products(a: Tensor, b: Tensor) -> Tensor:
    """The dot products of the rows of two contiguous tensors (rows, places), in fp32: (rows,)."""
    rows, places = a.shape
    height, width = _tile(places)
    found = a.new_empty(rows, dtype=torch.float32)
    _row_products[triton.cdiv(rows, height),](a, b, found, rows, places, height, width)
    return found


def column_products(a: Tensor, b: Tensor) -> Tensor:
    """The dot products of the columns of two contiguous tensors (images, places, channels), in fp32."""
    images, places, channels = a.shape
    width = min(CHANNELS, triton.next_power_of_2(channels))
    height = TILE // width
    groups = triton.cdiv(channels, width)
    parts = max(1, min(triton.cdiv(places, height), PROGRAMS // (images * groups)))
    share = triton.cdiv(triton.cdiv(places, parts), height) * height
    parts = triton.cdiv(places, share)
    found = a.new_empty((images, parts, channels), dtype=torch.float32)
    _column_products[images, parts, groups](a, b, found, places, channels, share, height, width)
    return found[:, 0] if parts == 1 else found.sum(1)


def scaled_and_shifted_rows(a: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """``a * scale + shift`` of contiguous (rows, places) with a factor and a summand for each row, into ``out``."""
    rows, places = a.shape
    height, width = _tile(places)
    grid = (triton.cdiv(rows, height), triton.cdiv(places, width))
    _scaled_and_shifted_rows[grid](a, scale, shift, out, rows, places, height, width)


def scaled_and_shifted_columns(a: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """``a * scale + shift`` of contiguous (images, places, channels), of each image and channel, into ``out``."""
    images, places, channels = a.shape
    width = min(CHANNELS, triton.next_power_of_2(channels))
    height = TILE // width
    grid = (images, triton.cdiv(places, height), triton.cdiv(channels, width))
    _scaled_and_shifted_columns[grid](a, scale, shift, out, places, channels, height, width)


def _tile(places: int) -> tuple[int, int]:
    width = min(1024, triton.next_power_of_2(places))
    return TILE // width, width


@triton.jit
def _row_products(a, b, found, rows, places, height: tl.constexpr, width: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * height + tl.arange(0, height)
    total = tl.zeros((height, width), tl.float32)
    for start in range(0, places, width):
        place = start + tl.arange(0, width)
        inside = (row < rows)[:, None] & (place < places)[None, :]
        at = row[:, None] * places + place[None, :]
        total += tl.load(a + at, inside, 0.0).to(tl.float32) * tl.load(b + at, inside, 0.0).to(tl.float32)
    tl.store(found + row, tl.sum(total, 1), row < rows)


@triton.jit
def _column_products(a, b, found, places, channels, share, height: tl.constexpr, width: tl.constexpr):
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * width + tl.arange(0, width)
    total = tl.zeros((height, width), tl.float32)
    for start in range(part * share, min((part + 1) * share, places), height):
        place = start + tl.arange(0, height)
        inside = (place < places)[:, None] & (channel < channels)[None, :]
        at = (image * places + place)[:, None] * channels + channel[None, :]
        total += tl.load(a + at, inside, 0.0).to(tl.float32) * tl.load(b + at, inside, 0.0).to(tl.float32)
    at = (image * tl.num_programs(1) + part) * channels + channel
    tl.store(found + at, tl.sum(total, 0), channel < channels)


@triton.jit
def _scaled_and_shifted_rows(a, scale, shift, out, rows, places, height: tl.constexpr, width: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * height + tl.arange(0, height)
    place = tl.program_id(1) * width + tl.arange(0, width)
    inside = (row < rows)[:, None] & (place < places)[None, :]
    at = row[:, None] * places + place[None, :]
    times = tl.load(scale + row, row < rows, 0.0).to(tl.float32)[:, None]
    plus = tl.load(shift + row, row < rows, 0.0).to(tl.float32)[:, None]
    tl.store(out + at, tl.load(a + at, inside, 0.0).to(tl.float32) * times + plus, inside)


@triton.jit
def _scaled_and_shifted_columns(a, scale, shift, out, places, channels, height: tl.constexpr, width: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * height + tl.arange(0, height)
    channel = tl.program_id(2) * width + tl.arange(0, width)
    inside = (place < places)[:, None] & (channel < channels)[None, :]
    at = (image * places + place)[:, None] * channels + channel[None, :]
    times = tl.load(scale + image * channels + channel, channel < channels, 0.0).to(tl.float32)[None, :]
    plus = tl.load(shift + image * channels + channel, channel < channels, 0.0).to(tl.float32)[None, :]
    tl.store(out + at, tl.load(a + at, inside, 0.0).to(tl.float32) * times + plus, inside)
