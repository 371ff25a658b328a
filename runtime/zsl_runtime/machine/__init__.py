"""The machine at hand: cards, threads, cache folder, files written whole, signals, the compiled core."""
