"""Value models that predict pass rates of prompts (V0, arXiv 2602.03584).

Vocabulary: a policy is one model at one step. A row is what a policy scored on one prompt. A record is the
rows of one policy; as arrays it is a `Context`, from which a head predicts the policy's other pass rates.
"""
