"""The parts of `benchmarks.gpu`: each takes a `Bench` and returns its figures by name."""
