"""The learner: one DeepSpeed engine on each of W data-parallel workers, driven from rank 0."""
