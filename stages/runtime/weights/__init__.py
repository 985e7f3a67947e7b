"""From stored integers to float weights, and a network that holds them."""
