"""Where profiles, graphs and samples are kept."""
