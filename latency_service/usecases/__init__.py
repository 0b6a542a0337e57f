"""What the product does, as plain functions over a workbench."""

from latency_service.usecases.coefficients import Request, coefficients, graph_from, stored_graph
from latency_service.usecases.scores import ScoreRequest, scores
from latency_service.usecases.workbench import Workbench, open_workbench

__all__ = [
    "Request",
    "ScoreRequest",
    "Workbench",
    "coefficients",
    "graph_from",
    "open_workbench",
    "scores",
    "stored_graph",
]
