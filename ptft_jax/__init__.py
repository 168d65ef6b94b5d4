"""ptft_jax."""
