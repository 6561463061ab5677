"""Every promise under every fault that can be staged. Short versions run with the other tests; `make faults` runs the
long ones and prints the README's table of figures."""
