"""Slots: learner groups and engines that outlive a trial, and the leases that lend them out."""
