"""Strides, in elements, as torch counts them: how a tensor's elements lie in its memory."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["contiguous", "dense_order", "normal", "overlap"]


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


def overlap(shape: Sequence[int], stride: Sequence[int], size: int = 1) -> bool:
    """Whether elements of `size`, in whatever the strides are counted in, may lie on each other, as where a tensor was expanded:
    some dimension does not step over all that the finer ones span. No slice of a tensor without sharing is such a one."""
    span = size
    for step, length in sorted(zip(map(abs, stride), shape, strict=True)):
        if length > 1:
            if step < span:
                return True
            span += (length - 1) * step
    return False


def normal(shape: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """The strides as manifests have them: () for C order, where those of dimensions of one element say nothing, and where
    there are no elements at all."""
    usual = contiguous(shape)
    if 0 in shape or all(mine == its for mine, its, length in zip(stride, usual, shape, strict=True) if length != 1):
        return ()
    return tuple(stride)
