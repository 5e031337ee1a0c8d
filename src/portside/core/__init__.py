"""The interfaces everything else is written against, and the domain objects they speak of."""
