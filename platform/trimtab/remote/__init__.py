"""Existing Ray clusters: join one as a driver, or submit a sweep to it as a job."""
