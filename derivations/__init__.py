"""Papers, each as a list of claims that the toolkit derives and checks."""
