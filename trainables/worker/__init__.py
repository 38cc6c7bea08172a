"""What serves leases on a slot's learner workers."""
