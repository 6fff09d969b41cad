"""Images: fetch, decode and resize, shards, verification, a sample grid."""
