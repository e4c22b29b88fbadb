"""The adversarial losses, one a file; registry.LOSSES has them by name. Each is stated once, on logits: D(x) before any
sigmoid.

Every loss is a mean over samples. `real` are the logits of real samples, `fake` those of generated ones, both (N,).
With sigma the logistic function and softplus(t) = log(1 + e^t): -log sigma(t) = softplus(-t), -log(1 - sigma(t)) =
softplus(t), forms that neither overflow nor lose their gradient where the sigmoid is 0 or 1 in floating point.
"""
