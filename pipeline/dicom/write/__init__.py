"""Objects for archives: structured reports, presentation states, secondary captures."""
