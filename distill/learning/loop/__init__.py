"""Parts of the training loop (`distill.learning.fit`): what feeds it, what it keeps on the device, what it writes and when."""
