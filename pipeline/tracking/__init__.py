"""MLflow: metrics, parameters, traces, results and the model of a run, without holding up or stopping the
training.
"""

from pipeline.tracking.settings import TrackingSettings
from pipeline.tracking.tracker import MlflowTracker

__all__ = ["MlflowTracker", "TrackingSettings"]
