"""Programs that use lstm_fused on real input; see README.md beside this file."""
