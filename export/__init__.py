"""From a trained student to a measured artifact: deployable towers, targets, parity, devices, latency."""
