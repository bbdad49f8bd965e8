"""The search for a student: networks of a family that keep within limits, tried by equal workers on one study."""
