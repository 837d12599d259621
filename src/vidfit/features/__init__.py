"""From TFRecord shards to ragged batches of bytes, and a generated corpus in the same format."""
