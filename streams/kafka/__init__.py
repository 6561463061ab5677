"""Topics, delivery and the Faust agents: the only rooms that know Kafka."""
