"""What the service answers, a file for each family of APIs."""
