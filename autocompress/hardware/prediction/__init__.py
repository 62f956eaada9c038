"""Latency and memory of networks that were not measured: read from their graphs, learned from those that were."""

from autocompress.hardware.prediction.features import GraphCosts, NodeCost, graph_costs
from autocompress.hardware.prediction.fit import Sample, fit
from autocompress.hardware.prediction.predictor import Prediction, Predictor
from autocompress.hardware.prediction.roofline import Roofline
from autocompress.hardware.prediction.seeds import PublishedFit, published_fit, seeded
from autocompress.hardware.prediction.store import PredictorKey, load_predictor, save_predictor

__all__ = [
    "GraphCosts",
    "NodeCost",
    "Prediction",
    "Predictor",
    "PredictorKey",
    "PublishedFit",
    "Roofline",
    "Sample",
    "fit",
    "graph_costs",
    "load_predictor",
    "published_fit",
    "save_predictor",
    "seeded",
]
