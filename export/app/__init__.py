"""What an app needs beside the exported graphs: preprocessing, tokenizer, logit scale, golden samples, licence."""
