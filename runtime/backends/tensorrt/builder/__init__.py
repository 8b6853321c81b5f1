"""From a bundle's graphs to plans, and a report on what TensorRT made of them."""
