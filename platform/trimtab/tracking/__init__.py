"""What a sweep did, in MLflow. MLflow itself is imported when a tracker starts, not before."""

from trimtab.tracking.tracker import Tracker

__all__ = ["Tracker"]
