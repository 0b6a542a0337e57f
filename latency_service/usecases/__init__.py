"""What the product does, as plain functions over a workbench."""

from latency_service.usecases.coefficients import (
    Request,
    coefficients,
    store_graph,
    stored_graph,
)
from latency_service.usecases.scores import ScoreRequest, scores
from latency_service.usecases.workbench import Workbench, open_workbench

__all__ = [
    "Request",
    "ScoreRequest",
    "Workbench",
    "coefficients",
    "open_workbench",
    "scores",
    "store_graph",
    "stored_graph",
]
