"""Benchmarks: correctness first, then time. See NOTES.md."""
