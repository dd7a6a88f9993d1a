"""Pictures, charts and pages; nothing here knows what they show."""
