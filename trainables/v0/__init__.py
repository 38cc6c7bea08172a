"""V0 (arXiv 2602.03584): value models that read a policy's record. Importing this loads nothing heavy."""
