"""Every published baseline as a point in prior x fusion x budget: a few parameters, and the axes they set."""
