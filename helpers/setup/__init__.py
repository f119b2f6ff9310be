"""What a session begins with: which machine this is, which packages belong here, and putting them right."""
