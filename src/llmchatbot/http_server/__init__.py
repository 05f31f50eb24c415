"""HTTP/1.1 towards clients: llhttp's parser, our own deadlines, limits and writes. See docs/adr/0009."""
