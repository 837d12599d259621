"""From video files to shards: decode, embed, transform. Needs `pip install 'vidfit[videos]'`."""
