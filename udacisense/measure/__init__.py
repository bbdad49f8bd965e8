"""Everything that turns samples or answers into figures."""
