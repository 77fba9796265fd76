"""Draw every figure in two halves: `*_data` computes, `plot_*` draws."""
