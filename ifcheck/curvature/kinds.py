"""Which matrix stands for the curvature of the data loss, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ifcheck.curvature.head import row_blocks
from ifcheck.curvature.operator import HessianOperator
from ifcheck.curvature.rows import ROW_VALUES, TrainingRows
from ifcheck.registry import Registry


class Curvature(Protocol):
    """An entry of `CURVATURES`: from a network's training rows to an operator (P, P)."""

    of_linear_outputs: ClassVar[bool]  # whether it is the Hessian where outputs are linear

    def operator(self, rows: TrainingRows) -> HessianOperator:
        """Return the matrix of the mean data loss, without regulariser."""


CURVATURES: Registry[Curvature] = Registry("curvature")


@CURVATURES.register("hessian")
@dataclass(frozen=True)
class Hessian:
    """The Hessian itself; indefinite for networks, positive semidefinite for plain heads."""

    of_linear_outputs: ClassVar[bool] = True

    def operator(self, rows: TrainingRows) -> HessianOperator:
        size = len(rows.parameters)
        return HessianOperator(
            size,
            rows.hessian_product,
            rows.hessian,
            rows.device,
            lambda: rows.kronecker(empirical=False),
        )


@CURVATURES.register("ggn")
@dataclass(frozen=True)
class GeneralizedGaussNewton:
    """The generalised Gauss-Newton matrix (Schraudolph 2002): outputs linear in the parameters.

    Positive semidefinite where the loss is convex in the outputs, as cross-entropy is. That of a
    plain head is its Hessian. For softmax outputs it is the Fisher information.
    """

    of_linear_outputs: ClassVar[bool] = True

    def operator(self, rows: TrainingRows) -> HessianOperator:
        size = len(rows.parameters)
        return HessianOperator(
            size,
            rows.gauss_newton_product,
            rows.gauss_newton,
            rows.device,
            lambda: rows.kronecker(empirical=False),
        )


@CURVATURES.register("empirical-fisher")
@dataclass(frozen=True)
class EmpiricalFisher:
    """1/n sum_i g_i g_i^T of the rows' gradients, with the targets that they have.

    Neither Hessian nor Fisher information (Kunstner et al. 2019), and zero where the network fits
    every row.
    """

    of_linear_outputs: ClassVar[bool] = False

    def operator(self, rows: TrainingRows) -> HessianOperator:
        def product(directions: Tensor) -> Tensor:
            return rows.combined_gradients(rows.row_products(directions) / rows.count)

        def dense() -> Tensor:
            rows.require_dense()
            size = len(rows.parameters)
            matrix = torch.zeros(size, size).to(rows.parameters)
            for block in row_blocks(rows.count, size, ROW_VALUES):
                gradients = rows.row_gradients(block)
                matrix.addmm_(gradients.mT, gradients, alpha=1 / rows.count)
            return matrix

        return HessianOperator(
            len(rows.parameters),
            product,
            dense,
            rows.device,
            lambda: rows.kronecker(empirical=True),
        )
