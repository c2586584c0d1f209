"""Strides, in elements, as torch counts them: how a tensor's elements lie in its memory."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["contiguous", "dense_order", "normal"]


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of C order."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))


def dense_order(shape: Sequence[int], stride: Sequence[int]) -> tuple[int, ...] | None:
    """The dimensions from the outermost in memory to the innermost, if the elements fill their memory without a hole and
    without sharing; else None. Such a tensor is a contiguous one whose dimensions were permuted."""
    if any(step < 0 for step in stride):
        return None
    order = sorted(range(len(shape)), key=lambda axis: (-stride[axis], axis))
    expected = 1
    for axis in reversed([axis for axis in order if shape[axis] != 1]):
        if stride[axis] != expected:
            return None
        expected *= shape[axis]
    return tuple(order)


def normal(shape: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """The strides as manifests have them: () for C order, where those of dimensions of one element say nothing, and where
    there are no elements at all."""
    usual = contiguous(shape)
    if 0 in shape or all(mine == its for mine, its, length in zip(stride, usual, shape, strict=True) if length != 1):
        return ()
    return tuple(stride)
