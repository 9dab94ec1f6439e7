"""How well a row fits a column, from the products of their features, with the derivative written out.

A loss over the global batch looks at scores block by block and never holds them all (``blockwise.py``); so a score is two
plain functions on one block. To add one: a class here.

Letters: m rows of a block, N columns, K products of a row with a column.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

EPS = 1e-6
"""Added to squared volumes and areas before the root, whose derivative would be infinite at 0."""


class Score(Protocol):
    """One way to compare."""

    def value(self, products: Tensor, column: Tensor) -> Tensor:
        """(K, m, N) products and what each column brings along (N,) -> scores (m, N)."""

    def pull(self, products: Tensor, column: Tensor, score: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient in the scores (m, N) -> gradients in the products (K, m, N) and in the columns' share (N,)."""


class Cosine:
    """<x, y>. One product; a column brings nothing along."""

    def value(self, products: Tensor, column: Tensor) -> Tensor:
        return products[0]

    def pull(self, products: Tensor, column: Tensor, score: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad[None], torch.zeros_like(column)


class Volume:
    """Minus the Gramian volume of (x, s, t): V^2 = w (1 - <x, s>^2 - <x, u>^2) (``gram.py``). A column brings w along."""

    def value(self, products: Tensor, column: Tensor) -> Tensor:
        return _inside(products).mul_(column).clamp_min_(0).add_(EPS).sqrt_().neg_()

    def pull(self, products: Tensor, column: Tensor, score: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        inside = _inside(products)
        grad = (grad / score).mul_(0.5).masked_fill_(inside < 0, 0)  # in V^2, as -V = score
        in_column = inside.mul_(grad).sum(0)
        return products * grad.mul_(column).mul_(-2), in_column


def _inside(products: Tensor) -> Tensor:
    """1 - p^2 - q^2, the squared distance from the plane."""
    return products[0].square().addcmul_(products[1], products[1]).neg_().add_(1)


class Area:
    """Minus the area of the triangle with corners x, s, t (TRIANGLE, arXiv 2509.24734). A column brings <s, t> along.

    With the half squared sides p = 1 - <x, s>, q = 1 - <x, t>, r = 1 - <s, t>: Area^2 = p r - h^2, h = (p + r - q) / 2.
    """

    def value(self, products: Tensor, column: Tensor) -> Tensor:
        p, r, h = self._sides(products, column)
        return p.mul_(r).addcmul_(h, h, value=-1).clamp_min_(0).add_(EPS).sqrt_().neg_()

    def pull(self, products: Tensor, column: Tensor, score: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        p, r, h = self._sides(products, column)
        grad = (grad / score).mul_(0.5).masked_fill_((p * r).addcmul_(h, h, value=-1) < 0, 0)
        in_column = p.sub_(h).mul_(grad).sum(0).neg_()
        pulled = products.new_empty(products.shape)
        pulled[0] = (h - r).mul_(grad)
        pulled[1] = h.mul_(grad).neg_()
        return pulled, in_column

    @staticmethod
    def _sides(products: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p, r = 1 - products[0], 1 - column
        return p, r, (products[1] - products[0]).add_(r).mul_(0.5)  # p - q = <x, t> - <x, s>
