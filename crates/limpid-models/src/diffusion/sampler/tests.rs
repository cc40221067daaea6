//! Orders of convergence and distributions, on images that are normal.
