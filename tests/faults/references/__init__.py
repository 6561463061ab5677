"""References that mean harm, and the servers behind them."""
