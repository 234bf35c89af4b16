"""Who shares a batch, and how: processes, their shards of it, and the noise of the whole."""
