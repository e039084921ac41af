"""The worker's library: heartbeats, sessions, offers, adoption, and what a worker knows of its own standing."""

from coordinator.worker.certificate import certify
from coordinator.worker.offer import Offer
from coordinator.worker.session import Session
from coordinator.worker.worker import DrainReport, Worker

__all__ = ["DrainReport", "Offer", "Session", "Worker", "certify"]
