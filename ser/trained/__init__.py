"""What is done with finished runs: scored on other data, crossed, repeated, enrolled with new speakers, published."""
