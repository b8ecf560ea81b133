"""Networks as the operator decides them: which addresses there are, who has which, and what a network's status says."""
